"""Shares of Gaussian values that estimators pass, against closed forms."""

import jax
import numpy as np
import pytest
from scipy import stats
from support.cases import parametrize

from capscale.estimators import (
    ABRms,
    BRms,
    Clip,
    ForwardMask,
    Hypersphere,
    Lsq,
    RmsThreshold,
    StraightThrough,
    Trust,
)
from capscale.formats import catalog
from capscale.formats.grids import Int
from capscale.formats.optimum import optimal_clip
from capscale.formats.vector import codebook
from capscale.gaussian_mse import pass_rate
from capscale.representation import Operand, operand


def within(bound):
    """Probability that a standard normal value is at most so far from 0."""
    return 2 * stats.norm.cdf(bound) - 1


INT4_CLIP = optimal_clip(Int(4))
OUTERMOST = float(np.max(np.sum(np.square(codebook(2, 16)), axis=1)))
PASS_RATES = [  # format, estimator, share of Gaussian values that it passes
    ("dense", StraightThrough(), 1.0),
    ("noise2", StraightThrough(), 1.0),
    ("top50", StraightThrough(), 1.0),
    ("int1", Clip(), within(np.sqrt(2 / np.pi))),
    ("int4", Trust(), within(INT4_CLIP * 16 / 15)),
    ("int4", Trust(1.5), within(INT4_CLIP * 18 / 15)),
    ("higgs-d2-n16", Hypersphere(0.5), 1 - np.exp(-OUTERMOST / 8)),
    ("top75", ForwardMask(), 0.25),
    ("2:4", ForwardMask(), 0.5),
    ("rigl75", ForwardMask(), 0.25),
    ("gmp75", ForwardMask(), 0.25),  # at the end of the schedule
    ("top50", RmsThreshold(0.1), 0.8),
    ("top50", BRms(0.1), 0.7),
    ("top50", ABRms(0.5), 0.75),
]


@parametrize(("name", "estimator", "expected"), PASS_RATES, default=5, ids=str)
def test_pass_rate_of_gaussian_values(name, estimator, expected):
    assert pass_rate(Operand(catalog.find(name), estimator)) == pytest.approx(expected, abs=2e-3)


def test_pass_rate_of_learned_steps_is_that_of_their_start():
    rate = pass_rate(Operand(catalog.find("lsq2"), Lsq()))
    start = catalog.find("lsq2").initial_learned(jax.random.normal(jax.random.key(0), (512, 1024)))
    assert rate == pytest.approx(within(float(np.mean(start)) * 1.5), abs=2e-3)
    assert 0.5 < rate < 0.95


def test_pass_rate_is_computed_once():
    assert pass_rate(operand("int3")) == pass_rate(operand("int3"))
    before = pass_rate.cache_info().hits
    pass_rate(operand("int3"))
    assert pass_rate.cache_info().hits == before + 1
