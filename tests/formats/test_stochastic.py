"""Stochastic rounding: no bias, the error that its chances have, and draws that a key repeats."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimators import STRAIGHT_THROUGH
from capscale.formats import (
    NM,
    TERNARY,
    Absmax,
    Int,
    Levels,
    Magnitude,
    Outliers,
    PowerOfTwo,
    Range,
    Rms,
    Scalar,
    SparseQuantized,
    StochasticRounding,
    TwoLevel,
    catalog,
)
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.capabilities import draws
from capscale.formats.distributions import NORMAL
from capscale.formats.floats import E2M1, E4M3
from capscale.formats.packing import pack, unpack
from capscale.formats.serialize import from_json, to_json
from capscale.formats.stated import CLOSED_FORM, unstated
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse, measured

DRAWS = 10_000
GRIDS = [Int(4), Int(1), Int(4, "mid-tread"), Int(3, "unsigned"), E2M1, E4M3, TERNARY, Levels((-1.0, 0.25, 3.0))]


def of_draws(format: Scalar, x: jax.Array, count: int) -> np.ndarray:
    """Values of as many draws, (count, *x.shape)."""
    keys = jax.random.split(jax.random.key(7), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: format.project(x, Context(key=key)).value))(keys), np.float64)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_mean_of_draws_is_the_value(grid):
    """Within the grid, to four standard errors of what two levels around a value give; beyond it, its end."""
    low, high = float(grid.levels[0]), float(grid.levels[-1])
    x = np.random.default_rng(0).uniform(1.1 * low - 0.1, 1.1 * high, 64).astype(np.float32)
    u = np.clip(x.astype(np.float64), low, high)
    rounding = StochasticRounding(grid)
    uniform = jax.random.uniform(jax.random.key(3), (DRAWS, 64))
    found = np.asarray(jax.jit(lambda x: rounding.drawn(x, uniform)[0])(jnp.broadcast_to(x, (DRAWS, 64))), np.float64)
    above = np.searchsorted(grid.levels, u).clip(1, len(grid.levels) - 1)
    lower, upper = grid.levels[above - 1], grid.levels[above]
    off = np.minimum(np.abs(found - lower), np.abs(found - upper))
    assert off.max() < 1e-6, "other levels than the two around a value"
    error = np.sqrt((upper - u) * (u - lower) / DRAWS)
    assert np.all(np.abs(found.mean(axis=0) - u) <= 4 * error + 1e-6)
    assert np.abs(np.asarray(grid.nearest(jnp.asarray(u, jnp.float32))[0]) - u).max() > 0.1 * np.diff(grid.levels).min()


def test_a_format_of_it_has_no_bias():
    """Of scales at which nothing saturates."""
    x = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    found = of_draws(catalog.find("mxfp4-ceil-stochastic"), jnp.asarray(x), DRAWS)
    error = found.std(axis=0) / DRAWS**0.5
    assert np.all(np.abs(found.mean(axis=0) - x) <= 4 * error + 1e-6)
    nearest = np.asarray(catalog.find("mxfp4-ceil").project(jnp.asarray(x), NO_CONTEXT).value)
    assert np.mean(np.abs(nearest - x) <= 4 * error + 1e-6) < 0.2


def test_known_errors():
    """MXFP4 as measured elsewhere, on 10^7 values; twice that of the nearest level where steps are small."""
    assert abs(gmse(catalog.find("mxfp4-ceil-stochastic")).value - 0.0271) < 5e-5
    nearest, drawn = (gmse(catalog.find(name)).value for name in ("absmax-int8", "absmax-int8-stochastic"))
    assert abs(drawn / nearest - 2) < 1e-3
    assert gmse(catalog.find("int4-stochastic")).method == "closed form"


@parametrize(
    "format",
    [
        Scalar(StochasticRounding(Int(3)), Absmax(), 32),
        Scalar(StochasticRounding(Int(3)), Rms(), 64),
        Scalar(StochasticRounding(E2M1), PowerOfTwo(), 32),
        Scalar(StochasticRounding(E2M1), TwoLevel(), 16),
        Scalar(StochasticRounding(TERNARY), Absmax(), 8),
    ],
    default=1,
    ids=catalog.label,
)
def test_the_error_is_that_of_draws(format):
    stated, found = gmse(format), measured(format, NORMAL, 1024)
    assert stated.standard_error == 0
    assert abs(stated.value - found.value) < 5 * found.standard_error


def test_errors_that_are_measured():
    assert gmse(Scalar(StochasticRounding(Int(4, "unsigned")), Range(), 32)).method.startswith("Monte Carlo")


def test_levels_stay_and_the_key_decides():
    format = catalog.find("mxfp4-ceil-stochastic")
    x = jnp.asarray(np.random.default_rng(2).standard_normal((4, 64)), jnp.float32)
    once, again, other = (format.project(x, Context(key=jax.random.key(seed))).value for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert np.mean(np.asarray(once != other)) > 0.2
    np.testing.assert_array_equal(of_draws(format, once, 100), np.broadcast_to(once, (100, *x.shape)))
    ctx = Context(key=jax.random.key(1))
    np.testing.assert_array_equal(unpack(pack(format, x, ctx)), other)
    with pytest.raises(UserError, match="PRNG key"):
        format.project(x, NO_CONTEXT)


def test_a_drawn_zero_is_a_positive_one():
    """Packed storage is held to bits, and codes have no sign of zero."""
    uniform = jnp.linspace(0, 0.99, 50)
    level, _ = StochasticRounding(TERNARY).drawn(jnp.full(50, -0.3), uniform)
    assert not np.signbit(np.asarray(level)[np.asarray(level) == 0]).any()


def test_what_it_goes_with():
    format = catalog.find("int4-stochastic")
    assert draws(format)
    assert not draws(catalog.find("int4"))
    assert default_estimator(format) == STRAIGHT_THROUGH
    assert "kernels draw no random numbers" in str(spec_of(format, STRAIGHT_THROUGH))
    assert from_json(to_json(format)) == format
    assert catalog.label(replace(format, group=32, ragged=True)) == "int4-g32-stochastic-ragged"
    for name in ("absmax-int3-g128-fp16-stochastic", "nvfp4-stochastic-row", "int4-g32-stochastic-ragged"):
        assert catalog.find(catalog.label(catalog.find(name))) == catalog.find(name)
    for refused in (lambda: SparseQuantized(NM(2, 4), format), lambda: Outliers(format, 0.01)):
        with pytest.raises(UserError, match="only a Scalar by itself rounds stochastically"):
            refused()
    with pytest.raises(UserError, match="draws already"):
        StochasticRounding(StochasticRounding(Int(4)))
    with pytest.raises(UserError, match="only scalar formats"):
        catalog.find("top50-stochastic")


@dataclass(frozen=True)
class Biased(StochasticRounding):
    """Always the upper level."""

    def drawn(self, u, uniform):
        return super().drawn(u, jnp.zeros_like(uniform))


def test_who_overrides_the_chances_has_no_error_of_them():
    assert "overrides drawn" in str(unstated(Scalar(Biased(Int(4))), CLOSED_FORM))
    assert gmse(Scalar(Biased(TERNARY), Magnitude())).method.startswith("Monte Carlo")
