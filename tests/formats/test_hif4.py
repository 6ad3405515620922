"""HiF4 against its definition written out group by group, its error, and its codes."""

import jax.numpy as jnp
import numpy as np
from support.cases import parametrize

from capscale.estimators import STRAIGHT_THROUGH
from capscale.formats import HiF4Scales, Scalar, catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.floats import E1M2
from capscale.formats.hif4 import LEAST, MOST, e6m2
from capscale.formats.packing import pack, unpack
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse

FORMAT = catalog.find("hif4")


def bfloat16(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).astype(jnp.bfloat16).astype(np.float32)


def of_group(x: np.ndarray) -> np.ndarray:
    """64 float32 values, quantized and dequantized."""
    magnitude = np.abs(x).reshape(8, 2, 4)
    scale = np.clip(bfloat16(magnitude.max() * bfloat16(1 / 7)), 2.0**-48, 1.5 * 2.0**15)
    power = np.exp2(np.floor(np.log2(scale)))
    scale = np.float32(np.round(scale / power * 4) / 4 * power)
    inverse = bfloat16(1 / scale)
    eight = np.where(magnitude.max(axis=(1, 2)) * inverse >= 4, 2, 1)[:, None, None]
    four = np.where(magnitude.max(axis=2, keepdims=True) * inverse / eight >= 2, 2, 1)
    level = np.minimum(np.round(magnitude / (eight * four) * inverse * 4) / 4, 1.75)
    return (np.sign(x).reshape(8, 2, 4) * level * eight * four * scale).reshape(64)


def test_values_are_those_of_the_definition():
    x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32) * 2.0 ** np.arange(-32, 32)[:, None]
    x = x.astype(np.float32)
    found = np.asarray(FORMAT.project(jnp.asarray(x), NO_CONTEXT).value)
    expected = np.stack([of_group(group) for group in x.reshape(-1, 64)]).reshape(x.shape)
    equal = found == expected.astype(np.float32)
    assert equal.mean() > 0.9999, "but for products that round to a tie"
    assert len(np.unique(np.abs(found[40, :64]))) > 8


def test_its_error_and_bits():
    """arXiv 2602.11287: 24 % below NVFP4 at the same 4.5 bits."""
    found = gmse(FORMAT)
    assert found.method.startswith("Monte Carlo")
    assert abs(found.value - 0.00688) < 5e-6 + 5 * found.standard_error
    assert FORMAT.bits == catalog.find("nvfp4").bits == 4.5
    assert abs(1 - found.value / gmse(catalog.find("nvfp4")).value - 0.24) < 0.005


def test_scales_of_six_and_two_bits():
    x = np.exp2(np.random.default_rng(1).uniform(-40, 14, 4096)).astype(np.float32)
    found = np.asarray(e6m2(jnp.asarray(x)), np.float64)
    mantissa, exponent = np.frexp(found)
    assert set(np.unique(mantissa * 8)) == {4, 5, 6, 7}
    assert np.all((exponent - 1 >= -48) & (exponent - 1 <= 15))
    assert np.abs(found / x - 1).max() < 0.125 + 2**-8
    np.testing.assert_array_equal(e6m2(jnp.asarray([0.0, 1e30, 1.125, 1.375])), [LEAST, MOST, 1.0, 1.5])
    assert not np.isfinite(np.asarray(e6m2(jnp.asarray([jnp.nan, jnp.inf])))).any()
    (_, _, last) = HiF4Scales().decode((jnp.zeros(2, jnp.uint32),) * 2 + (jnp.asarray([0, 255], jnp.uint32),))
    np.testing.assert_array_equal(last, [2.0**-48, jnp.nan])


@parametrize("width", [4, 12, 64, 100], default=[100])
def test_rows_end_with_fewer_groups(width):
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, width)), jnp.float32)
    packed = pack(FORMAT, x)
    np.testing.assert_array_equal(unpack(packed), FORMAT.project(x, NO_CONTEXT).value)
    assert len(packed.fields["scales2"]) == 3 * -(-width // 64)


def test_other_grids_and_kernels():
    """The units of a grid do not matter, as its largest level stands for 1.75."""
    x = jnp.asarray(np.random.default_rng(3).standard_normal((2, 64)), jnp.float32)
    mid = Scalar(catalog.find("mid-tread-int4").grid, HiF4Scales(), 4)
    np.testing.assert_array_equal(mid.project(x, NO_CONTEXT).value, FORMAT.project(x, NO_CONTEXT).value)
    assert Scalar(E1M2, HiF4Scales(), 4) == FORMAT
    assert str(spec_of(FORMAT, STRAIGHT_THROUGH)) == "HiF4Scales scales are left to XLA"
