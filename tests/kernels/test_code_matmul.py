"""Products of codes: which grids have codes that matrix units take, exact sums, and what chooses them."""

from fractions import Fraction
from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch, estimated, products
from capscale.kernels.config import PRODUCTS
from capscale.kernels.matmul.codes import Multiplicand, Pair, Steps, as_codes, is_float8, multiply, pair_of, steps_of

from capscale.formats.floats import E2M1, E2M3, E3M2, E4M3, E5M2
from capscale.formats.grids import Int
from capscale.formats.levels import NF4, TERNARY

GRIDS = [Int(bits, kind) for kind in ("mid-rise", "mid-tread", "twos-complement", "unsigned") for bits in (2, 4, 7, 8)]
RNG = np.random.default_rng(0)


def test_int8_counts_every_level_of_integers_and_short_floats():
    """Codes stand for the levels to the bit, and lie in int8; steps are counted in the coarsest unit."""
    for grid in (*GRIDS, Int(1), Int(1, "unsigned"), TERNARY, E2M1, E2M3):
        steps = steps_of(grid.levels)
        assert steps is not None, grid
        levels = jnp.asarray(np.resize(grid.levels, 256), jnp.float32)  # of one shape, for one compilation
        codes = np.asarray(as_codes(levels, steps, "int8"))[: len(grid.levels)]
        assert codes.dtype == np.int8
        assert len(set(codes.tolist())) == len(grid.levels)
        meant = [steps.unit * (steps.factor * int(code) + steps.offset) for code in codes]
        np.testing.assert_array_equal(meant, grid.levels)
    assert steps_of(Int(4).levels) == Steps(0.5)
    assert steps_of(Int(8).levels) == Steps(0.5, 2, 1)
    assert steps_of(Int(8, "unsigned").levels) == Steps(1.0, 1, 128)
    assert [steps_of(grid.levels) for grid in (E3M2, E4M3, NF4)] == [None] * 3


def test_float8_has_the_levels_that_its_numbers_are():
    """Against the conversion of every one of 16 bits that bfloat16 has, both ways."""
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16).astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        kept = finite.astype(jnp.float8_e4m3fn).astype(np.float64) == finite
    assert [is_float8([number]) for number in finite] == kept.tolist()
    assert is_float8(E4M3.levels)
    assert is_float8(Int(4).levels)
    assert not is_float8(E5M2.levels)
    assert not is_float8(Int(8).levels)


@pytest.mark.parametrize(("x_grid", "w_grid"), [*product([Int(4), Int(8)], repeat=2), (Int(8, "unsigned"), E2M3)])
def test_sums_of_int8_codes_are_exact(x_grid, w_grid):
    """A row of the largest width that int32 holds, of the outermost levels: against rational numbers, rounded once.

    Of random codes of 8 bits as wide, a sum of float32 products is not exact.
    """
    too_wide = pair_of(x_grid.levels, w_grid.levels, 2**31)
    assert isinstance(too_wide, str)
    width = min(int(too_wide.split()[-3]), 2**15)
    pair = pair_of(x_grid.levels, w_grid.levels, width)
    assert isinstance(pair, Pair)
    x = RNG.choice(np.asarray(x_grid.levels), (3, width))
    w = RNG.choice(np.asarray(w_grid.levels), (width, 2))
    x[0], w[:, 0] = x_grid.levels[-1], w_grid.levels[0]
    of_x, of_w = (
        as_codes(jnp.asarray(levels, jnp.float32), steps, "int8") for levels, steps in ((x, pair.x), (w, pair.w))
    )
    y = multiply(pair, Multiplicand(of_x, jnp.ones((3, 1))), Multiplicand(of_w, jnp.ones((1, 2))))
    unit = Fraction(1, 64)
    exact = [[sum(int(a * 8) * int(b * 8) for a, b in zip(row, column, strict=True)) for column in w.T] for row in x]
    np.testing.assert_array_equal(y, np.asarray([[float(unit * total) for total in row] for row in exact], np.float32))


def test_scales_are_applied_to_the_sum_and_carry_what_is_not_finite():
    pair = pair_of(E4M3.levels, Int(4).levels, 16)
    assert isinstance(pair, Pair)
    assert pair == Pair("float8")
    x, w = RNG.choice(np.asarray(E4M3.levels), (2, 3, 16)), RNG.choice(np.asarray(Int(4).levels), (16, 5))
    of_x, of_w = (as_codes(jnp.asarray(levels, jnp.float32), Steps(), "float8") for levels in (x, w))
    of_row, of_output = (RNG.random(shape).astype(np.float32) for shape in ((2, 3, 1), (1, 5)))
    of_row[1, 2] = np.nan
    y = multiply(pair, Multiplicand(of_x, jnp.asarray(of_row)), Multiplicand(of_w, jnp.asarray(of_output)))
    bound = 20 * 2.0**-24 * (np.abs(x) @ np.abs(w)) * np.float64(of_row) * of_output
    assert np.isnan(np.asarray(y)[1, 2]).all()
    np.testing.assert_array_less(np.abs(y - (x @ w) * np.float64(of_row) * of_output)[:1], bound[:1])
    assert pair_of(NF4.levels, Int(4).levels, 16) == (
        "levels of both are neither equal steps that int8 counts nor numbers of float8_e4m3fn"
    )


def test_the_environment_or_a_context_chooses(monkeypatch):
    monkeypatch.delenv(PRODUCTS, raising=False)
    assert products.mode() == "values"
    monkeypatch.setenv(PRODUCTS, "auto")
    assert products.mode() == "auto"
    with products.force("codes"):
        assert products.mode() == "codes"
    monkeypatch.setenv(PRODUCTS, "fast")
    with pytest.raises(ValueError, match="CAPSCALE_PRODUCTS='fast': use values, auto, codes"):
        products.mode()


def test_codes_are_multiplied_from_the_rows_on_that_the_chip_was_found_faster(monkeypatch):
    pair = Pair("int8", Steps(0.5), Steps(0.5))
    monkeypatch.setattr(estimated, "FEWEST_ROWS", {("v5e", pair): {640: 256}})
    with dispatch.target("tpu", chip="v5e"):
        assert [products.faster(pair, 640, rows, "") for rows in (255, 256)] == [False, True]
        assert not products.faster(pair, 768, 4096, "")
        assert not products.faster(Pair("float8"), 640, 4096, "")
    for other in (dispatch.target("tpu"), dispatch.target("tpu", chip="v4"), dispatch.target("cpu")):
        with other:
            assert not products.faster(pair, 640, 4096, "")
    assert not products.faster(pair, 640, 4096, "")  # on this machine
