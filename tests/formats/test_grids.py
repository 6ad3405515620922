"""Every grid against a brute-force nearest level in float64, and floats against ml_dtypes code by code."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats.catalog import FLOATS
from capscale.formats.floats import E2M1, E2M3, E3M2, E3M4, E4M3, E5M2, Float
from capscale.formats.grids import Int
from capscale.formats.levels import TERNARY, Levels, lloyd_max

GRIDS = {
    **{f"int{b}": Int(b) for b in range(1, 9)},
    **{f"mid-tread{b}": Int(b, "mid-tread") for b in range(2, 9)},
    **{f"twos{b}": Int(b, "twos-complement") for b in range(2, 9)},
    **FLOATS,
    **{f"lloyd{b}": lloyd_max(b) for b in (1, 2, 3, 4, 6)},
    "ternary": TERNARY,
    "uneven": Levels((-3.0, -0.25, 0.0, 0.5, 0.75, 4.0)),
    "two-sided-gap": Levels((-2.0, -1.0, 1.0, 2.0)),
}


def samples(grid) -> np.ndarray:
    """Points on, between and beyond the levels, on boundaries and a hair to either side of them."""
    levels = grid.levels.astype(np.float32)
    middle = ((grid.levels[1:] + grid.levels[:-1]) / 2).astype(np.float32)
    beyond = np.float32([levels[0] * 1.01, levels[-1] * 1.3, levels[-1] * 100, -levels[-1] * 100, 0.0])
    near = np.concatenate([np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))])
    random = np.random.default_rng(0).uniform(levels[0] * 1.2, levels[-1] * 1.2, 4000).astype(np.float32)
    return np.concatenate([levels, middle, near, beyond, random])


@parametrize("name", list(GRIDS), default=list(GRIDS)[::4])
def test_nearest_is_nearest(name):
    grid = GRIDS[name]
    u = samples(grid)
    value, gap = (np.asarray(part) for part in grid.nearest(jnp.asarray(u)))
    levels = grid.levels
    assert np.all(np.diff(levels) > 0)
    assert np.isin(value, levels.astype(np.float32)).all()
    distance = np.abs(u.astype(np.float64)[:, None] - levels)
    best = distance.min(axis=1)
    own = np.abs(u.astype(np.float64) - value)
    # Boundaries of computed levels are rounded to float32: a hair from one, either side is nearest.
    exact = name in FLOATS or name.startswith(("int", "mid", "twos"))
    assert np.all(own <= best + (0 if exact else 1e-6) * np.maximum(np.abs(u), 1))
    on_a_level = distance.min(axis=1) < 1e-6 * np.maximum(np.abs(u), 1)  # where either side's gap will do
    inside = (u > levels[0]) & (u < levels[-1]) & ~on_a_level
    assert np.all(gap > 0)
    assert np.all(own[inside] <= gap[inside] / 2 * (1 + 1e-5))
    upper = np.clip(np.searchsorted(levels.astype(np.float32), u, side="left"), 1, len(levels) - 1)
    np.testing.assert_allclose(gap[inside], np.diff(levels)[upper - 1][inside], rtol=1e-5)


@parametrize("name", list(GRIDS), default=list(GRIDS)[::4])
def test_codes_name_levels(name):
    grid = GRIDS[name]
    u = jnp.asarray(samples(grid))
    codes = grid.encode(u)
    assert codes.dtype == jnp.uint32
    assert int(codes.max()) < grid.codes
    np.testing.assert_array_equal(grid.decode(codes), grid.nearest(u)[0])
    np.testing.assert_array_equal(np.unique(np.asarray(grid.nearest(u)[0])), np.unique(grid.levels.astype(np.float32)))


OCP = {
    ml_dtypes.float4_e2m1fn: E2M1,
    ml_dtypes.float6_e3m2fn: E3M2,
    ml_dtypes.float6_e2m3fn: E2M3,
    ml_dtypes.float8_e4m3fn: E4M3,
    ml_dtypes.float8_e5m2: E5M2,
    ml_dtypes.float8_e3m4: Float(3, 4, "ieee"),
}


@pytest.mark.parametrize("theirs", OCP, ids=lambda dtype: dtype.__name__)
def test_every_code_matches_ml_dtypes(theirs):
    grid = OCP[theirs]
    codes = np.arange(grid.codes, dtype=np.uint8)
    expected = codes.view(theirs).astype(np.float32)
    np.testing.assert_array_equal(grid.decode(jnp.asarray(codes, jnp.uint32)), expected)


@pytest.mark.parametrize("theirs", OCP, ids=lambda dtype: dtype.__name__)
def test_rounding_matches_ml_dtypes(theirs):
    grid = OCP[theirs]
    u = samples(grid)
    u = u[np.abs(u) <= grid.levels[-1]]  # beyond, ours saturates and theirs may overflow
    ours = np.asarray(grid.nearest(jnp.asarray(u))[0])
    np.testing.assert_array_equal(ours, u.astype(theirs).astype(np.float32))


def test_round_half_up_would_be_seen():
    ties = np.float32([1.25, 2.5, 5.0])  # between 1 and 1.5, 2 and 3, 4 and 6
    np.testing.assert_array_equal(E2M1.nearest(jnp.asarray(ties))[0], [1.0, 2.0, 4.0])


def test_levels_and_ties_of_integers():
    """A tie goes to the even integer of |u|, and of |u| - 1/2 where no level is 0."""
    np.testing.assert_array_equal(Int(2).levels, [-1.5, -0.5, 0.5, 1.5])
    np.testing.assert_array_equal(Int(3, "mid-tread").levels, np.arange(-3, 4))
    np.testing.assert_array_equal(Int(3, "twos-complement").levels, np.arange(-4, 4))
    ties = jnp.float32([1, 2, 3, -1, -2, -3])
    np.testing.assert_array_equal(Int(4).nearest(ties)[0], [0.5, 2.5, 2.5, -0.5, -2.5, -2.5])
    for kind in ("mid-tread", "twos-complement"):
        np.testing.assert_array_equal(Int(4, kind).nearest(ties - jnp.sign(ties) / 2)[0], [0, 2, 2, 0, -2, -2])


def test_all_codes_of_other_splits_are_numbers():
    assert len(Float(6, 1).levels) == 2**8 - 1
    assert E3M4.levels[-1] == 15.5 * 2
    np.testing.assert_array_equal(Float(1, 2).levels, np.arange(-3.5, 4, 0.5))


@pytest.mark.parametrize("bits", range(1, 9))
def test_lloyd_max_levels_are_means_of_their_cells(bits):
    from capscale.formats.distributions import NORMAL, cells

    levels = lloyd_max(bits).levels
    m0, m1, _ = NORMAL.moments(*cells(levels))
    np.testing.assert_allclose(levels, m1 / m0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Int(0), "bits must be 1 to 8"),
        (lambda: Int(9), "bits must be 1 to 8"),
        (lambda: Int(1, "mid-tread"), "bits must be 2 to 8"),
        (lambda: Float(0, 3), "exponent"),
        (lambda: Float(5, 3), "at most 8 bits"),
        (lambda: Float(1, 2, "ieee"), "use 'none'"),
        (lambda: Levels((1.0,)), "give 2 to 256"),
        (lambda: Levels((1.0, 0.5)), "ascending"),
        (lambda: Levels((0.0, float("inf"))), "finite"),
        (lambda: Levels((-2.0, -1.0)), "must be positive"),
        (lambda: lloyd_max(9), "bits must be 1 to 8"),
    ],
)
def test_bad_grids_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
