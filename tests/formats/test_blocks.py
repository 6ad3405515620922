"""Scales of blocks of rows and columns, and AbnormalFloat."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT, per_row
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.groups import Groups
from capscale.formats.packing import pack, unpack
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, TwoLevel
from capscale.gaussian_mse import gmse
from capscale.packed import load_weights


def gaussian(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value(name: str, x: np.ndarray) -> np.ndarray:
    return np.asarray(catalog.find(name).project(jnp.asarray(x), NO_CONTEXT).value)


def test_fp8_of_128_by_128_blocks():
    """As DeepSeek-V3 holds weights: the largest magnitude of a block over 448, and OCP's E4M3."""
    x = gaussian((256, 384)) * 2.0 ** np.arange(384).astype(np.float32)[None] ** 0.3
    blocks = x.reshape(2, 128, 3, 128)
    scale = np.abs(blocks).max(axis=(1, 3), keepdims=True) * np.float32(1 / 448)
    level = (blocks * (np.float32(1) / scale)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(value("absmax-e4m3-g128x128", x), (level * scale).reshape(x.shape))


@parametrize("name", ["nvfp4-g16x16", "absmax-e4m3-g128x128"], default=["absmax-e4m3-g128x128"])
def test_square_blocks_are_those_of_the_transpose(name):
    """The purpose of square blocks: the weights of the backward product are those of the forward one."""
    x = gaussian((128, 256))
    np.testing.assert_array_equal(value(name, x.T), value(name, x).T)
    assert np.any(value("nvfp4", x.T) != value("nvfp4", x).T)


def test_batches_of_matrices_have_blocks_of_their_own():
    x = gaussian((3, 32, 64)) * np.array([1, 10, 100], np.float32)[:, None, None]
    found = value("nvfp4-g16x16", x)
    for one, each in zip(x, found, strict=True):
        np.testing.assert_array_equal(value("nvfp4-g16x16", one), each)


@pytest.mark.parametrize(
    ("name", "error"),
    [("nvfp4-g16x16", 0.01240), ("absmax-e4m3-g128x128", 0.000700), ("absmax-e4m3-g128", 0.000661), ("af4", 0.00915)],
)
def test_known_errors(name, error):
    """Of 10^7 Gaussian values, projected in NumPy."""
    found = gmse(catalog.find(name))
    assert found.standard_error == 0
    assert abs(found.value / error - 1) < 1e-3


def test_bits_count_a_scale_a_block():
    assert catalog.find("nvfp4-g16x16").bits == 4 + 8 / 256
    assert catalog.find("absmax-e4m3-g128x128").bits == 8 + 32 / 128**2


def test_activations_get_groups_of_a_row():
    assert per_row(catalog.find("absmax-e4m3-g128x128")) == catalog.find("absmax-e4m3-g128")
    assert per_row(catalog.find("nvfp4-g16x16")) == Scalar(E2M1, TwoLevel(granularity="row"), 16)


def test_survivors_of_a_pattern_in_blocks():
    format = catalog.find("2:4+nvfp4-g16x16")
    x = jnp.asarray(gaussian((32, 64)))
    found = format.project(x, NO_CONTEXT).value
    assert float(jnp.mean(found == 0)) >= 0.5
    np.testing.assert_array_equal(unpack(pack(format, x)), found)


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (64,)])
def test_blocks_that_do_not_divide_are_refused(shape):
    with pytest.raises(UserError, match=r"group=\(16, 16\)"):
        value("nvfp4-g16x16", gaussian(shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar(Int(4), Absmax(), (16, 1)), "both at least 2"),
        (lambda: Scalar(Int(4), Absmax(), (16, 16, 16)), "both at least 2"),  # pyright: ignore[reportArgumentType]
        (lambda: Scalar(Int(4), Absmax(), (16, 16), ragged=True), "blocks have to divide both axes"),
        (lambda: Groups((True, 16)), "both at least 2"),
        (lambda: Scalar(E2M1, TwoLevel(granularity="row"), (16, 16)), "a block spans rows"),
        (lambda: load_weights(pack(catalog.find("nvfp4-g16x16"), jnp.ones((16, 16)))), "blocks that span rows"),
    ],
)
def test_bad_blocks_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_normal_float_has_less_error_of_gaussian_groups_than_abnormal_float():
    """Squared and absolute, in the groups of 64 that both are made for."""
    x = gaussian((4096, 64))
    mean = {name: float(np.mean(np.abs(value(name, x) - x))) for name in ("af4", "nf4")}
    assert mean["nf4"] < mean["af4"]
    assert gmse(catalog.find("nf4")).value < gmse(catalog.find("af4")).value
