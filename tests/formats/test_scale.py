"""Scales are the same numbers compiled and run operation by operation, and powers of two are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.floats import E2M1, E4M3, Float
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, PowerOfTwo

NAMES = ("absmax-int3", "absmax-int6", "e4m3", "mxfp4", "mxfp4-ceil", "mxfp8-e5m2", "nvfp4")


@parametrize("rows", [1, 64], default=[64])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_or_not(name, rows):
    """In bfloat16, where values lie on ties: a scale that is off in its last bit moves them to other levels."""
    format = catalog.find(name)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, rows, 128)), jnp.bfloat16)
    compiled = jax.jit(lambda x: format.project(x, NO_CONTEXT))
    for each in x[: 64 // rows]:
        eager = format.project(each, NO_CONTEXT)
        for name_ in ("value", "step", "relative_magnitude"):
            np.testing.assert_array_equal(getattr(compiled(each), name_), getattr(eager, name_), err_msg=name_)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("grid", [E2M1, E4M3, Float(3, 2), catalog.find("int4").grid], ids=str)
def test_powers_of_two_are_exact(grid, rounding):
    """Against float64, at the largest level itself and one unit in the last place to either side of it."""
    top = np.float32(grid.levels[-1])
    near = np.array([np.nextafter(top, np.float32(0)), top, np.nextafter(top, np.float32(np.inf))], np.float32)
    random = np.random.default_rng(0).uniform(1, 2, 1000).astype(np.float32)
    maximum = np.concatenate(
        [(near[:, None] * np.float32(2.0) ** np.arange(-20, 20, dtype=np.float32)).ravel(), random]
    )
    scalar = Scalar(grid, PowerOfTwo(rounding), 2)
    x = jnp.asarray(np.stack([maximum, np.zeros_like(maximum)], axis=1))
    (scale,) = jax.jit(lambda x: scalar.measure(x, NO_CONTEXT))(x)
    exponent = np.log2(maximum.astype(np.float64) / PowerOfTwo(rounding).reference(grid))
    expected = 2.0 ** (np.floor(exponent) if rounding == "floor" else np.ceil(exponent))
    np.testing.assert_array_equal(np.asarray(scale).reshape(-1), expected)


def test_what_is_not_finite_stays():
    x = jnp.asarray([[np.inf, 1.0], [np.nan, 1.0], [0.0, 0.0]])
    for rule, of_zero in ((PowerOfTwo(), 2.0**-126), (Absmax(), 0.0)):
        (scale,) = Scalar(E2M1, rule, 2).measure(x, NO_CONTEXT)
        assert not bool(jnp.isfinite(scale[:2]).any())
        assert float(scale[2].reshape(())) == of_zero


def test_powers_of_two_decode_as_the_ocp_specification_says():
    """E8M0 code 0 is 2^-127, a subnormal float32 (compared by its bits, as CPUs may flush it), and 255 is NaN."""
    codes = jnp.arange(256, dtype=jnp.uint32)
    (scales,) = PowerOfTwo().decode((codes,))
    patterns = np.asarray(scales).view(np.uint32)
    expected = (2.0 ** (np.arange(255) - 127.0)).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(patterns[:255], expected)
    assert np.isnan(np.asarray(scales)[255])
    (again,) = PowerOfTwo().encode((scales[1:255],))
    np.testing.assert_array_equal(again, codes[1:255])
