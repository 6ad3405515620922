"""Moments of formats on Gaussian data, against closed forms and against GMSE."""

import math

import numpy as np
import pytest
from support.cases import parametrize

from capscale.formats.catalog import find
from capscale.formats.families import Laplace
from capscale.gaussian_moments import PRECISION, Moments, moments, of_sums
from capscale.gaussian_mse import gmse, measured

FINITE = 2e-4  # relative, of a GMSE: rows of 1024 values, whose scale is their own RMS


def test_of_signs():
    """`E|x|^2 = 2 / pi` either way, of values that are the mean magnitude with the sign of x."""
    found = moments(find("int1"))
    assert found.along == pytest.approx(2 / math.pi, abs=4 * found.along_error + 2e-4)
    assert found.square == pytest.approx(2 / math.pi, abs=4 * found.square_error + 2e-4)
    assert 0 < found.along_error <= PRECISION


def test_of_half_of_the_values():
    """Kept values are kept whole: `E[x Q(x)] = E[Q(x)^2] = 1 - GMSE`."""
    found = moments(find("top50"))
    assert found.along == pytest.approx(found.square, rel=1e-6)
    assert found.shrinkage == pytest.approx(gmse(find("top50")).value, abs=4 * found.along_error + 1e-4)
    assert found.misalignment == pytest.approx(found.shrinkage, rel=1e-6)
    assert found.noise == pytest.approx(1 / found.along - 1, rel=1e-6)


@parametrize(
    "name",
    ["int4", "e2m1", "nvfp4", "mxfp4", "2:4", "int4-unbiased", "mxfp4-stochastic"],
    default=["int4", "mxfp4", "2:4", "int4-unbiased"],
)
def test_the_error_is_that_of_the_moments(name):
    found, error = moments(find(name)), gmse(find(name)).value
    assert 1 - 2 * found.along + found.square == pytest.approx(error, rel=6e-3)


def test_dense_loses_nothing():
    found = moments(find("dense"))
    assert found == Moments(1.0, 1.0, 0.0, 0.0)
    assert (found.shrinkage, found.misalignment, found.noise, found.effective_bits) == (0, 0, 0, None)


@pytest.mark.parametrize("name", ["int4-unbiased", "noise-as-int4"])
def test_unbiased_formats_do_not_shrink(name):
    found = moments(find(name))
    assert abs(found.shrinkage) <= 4 * found.along_error + 1e-6
    assert moments(find("int4")).shrinkage > 100 * PRECISION


def test_levels_that_are_optimal_shrink_by_their_error():
    """Lloyd-Max: `E[x Q(x)] = E[Q(x)^2]`, as each level is the mean of what is rounded to it."""
    found = moments(find("lloyd4"))
    assert found.along == pytest.approx(found.square, abs=4 * (found.along_error + found.square_error))
    assert found.shrinkage == pytest.approx(gmse(find("lloyd4")).value, abs=2e-4)


def test_a_scale_turns_nothing():
    """EDEN's scales cost error and save the bias; the angle, and so the noise after a scale, is that of int4."""
    plain, scaled = moments(find("int4")), moments(find("int4-unbiased"))
    assert scaled.misalignment == pytest.approx(plain.misalignment, rel=5e-3)
    assert scaled.noise == pytest.approx(plain.noise, rel=5e-3)
    assert scaled.effective_bits == pytest.approx(plain.effective_bits, abs=5e-3)


@pytest.mark.ci
def test_other_data_and_rows():
    found = moments(find("absmax-int4"), Laplace(), 64)
    error = measured(find("absmax-int4"), Laplace(), 64)
    assert 1 - 2 * found.along + found.square == pytest.approx(error.value, rel=0.02)
    assert found.misalignment > 1.5 * moments(find("absmax-int4"), samples=64).misalignment


def test_their_errors_are_those_of_repeated_measurements():
    """Of 200 rows of 64 values at a time: the spread of 300 measurements is the error that each states."""
    rng, found = np.random.default_rng(3), []
    for _ in range(300):
        x = rng.standard_normal((200, 64))
        value = np.sign(x) * 0.8
        found.append(of_sums((x * value).sum(1), np.square(value).sum(1), np.square(x).sum(1)))
    for name in ("along", "square"):
        spread = np.std([getattr(m, name) for m in found])
        assert np.mean([getattr(m, f"{name}_error") for m in found]) == pytest.approx(spread, rel=0.12)
