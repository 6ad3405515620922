"""Where kinds of one shape end, on capacities whose ends are known."""

import numpy as np
import pytest
from support import synthetic

from capscale.analysis.effects import Measured
from capscale.analysis.operands import gaussian_error
from capscale.analysis.saturation import saturation
from capscale.analysis.table import make_table
from capscale.errors import UserError
from capscale.representation import Representation, operand

NAMES = (("lloyd1", "lloyd2", "lloyd3", "lloyd4"), ("higgs-d2-n16", "higgs-d2-n64", "higgs-d2-n256"))
ENDS = (1.0, 0.8)
ROWS = {r.curve: r for r in make_table(synthetic.runs(dict.fromkeys(sum(NAMES, ()), 0.5)), "test").rows}


def kind(names, end, scatter, seed):
    random = np.random.default_rng(seed)
    rho = end * synthetic.RHO.rho(np.array([gaussian_error(name) for name in names]))
    estimate = np.log(rho) + random.normal(0, scatter, len(rho))
    draws = estimate[:, None] + random.normal(0, scatter, (len(rho), 60))
    representations = tuple(Representation(operand(name)) for name in names)
    log_rho = np.concatenate([estimate[:, None], draws], axis=1)
    return Measured(representations, tuple(ROWS[name] for name in names), log_rho, "")


def kinds(scatter, seed=0):
    return [kind(names, end, scatter, seed + k) for k, (names, end) in enumerate(zip(NAMES, ENDS, strict=True))]


def test_exact_capacities_give_the_shape_and_the_ends():
    found = saturation(kinds(1e-9))
    assert found.shape[0] == pytest.approx([0.41, 1.39], rel=1e-4)
    assert found.lsat[:, 0] == pytest.approx(ENDS, rel=1e-4)
    assert found.departure[0] == pytest.approx(0, abs=1e-9)
    assert found.curve(1, np.array([gaussian_error("higgs-d2-n16")]))[0] == pytest.approx(
        kinds(1e-9)[1].rho[:1, 0], rel=1e-4
    )


@pytest.mark.ci
def test_ends_are_told_apart_and_their_intervals_cover():
    gaps = []
    for seed in range(15):
        found = saturation(kinds(0.03, seed * 10))
        gap = found.lsat[1] - found.lsat[0]
        low, high = np.quantile(gap[1:], [0.025, 0.975])
        gaps.append((low <= ENDS[1] - ENDS[0] <= high, high < 0))
    covered, told = np.mean(gaps, axis=0)
    assert covered >= 0.8
    assert told >= 0.8


def test_too_few_formats_are_refused():
    one, two = kinds(0.03)
    with pytest.raises(UserError, match="formats of 2 kinds"):
        saturation([one, two.only([True, False, False])])


def test_curves_that_do_not_bend_tell_no_end():
    """rho is a power of log GMSE, which tanh is far below its bend: any large Lsat fits alike."""
    straight = []
    for group, end in zip(kinds(1e-3), ENDS, strict=True):
        bits = -np.log(group.gmse) / np.log(4)
        rho = end * (bits / 6) ** 0.9
        draws = np.random.default_rng(0).normal(0, 1e-3, (len(rho), 60))
        log_rho = np.log(rho)[:, None] + np.concatenate([np.zeros((len(rho), 1)), draws], axis=1)
        straight.append(Measured(group.representations, group.rows, log_rho, ""))
    found = saturation(straight)
    with pytest.raises(UserError, match="does not bend"):
        found.end(1)
    assert saturation(kinds(1e-3)).end(1) == pytest.approx(ENDS[1], rel=0.05)
