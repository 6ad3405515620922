"""Double quantization against its definition in numpy, its exact error, and its bits."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.estimators import STRAIGHT_THROUGH
from capscale.formats import AF4, NF4, DoubleQuantized, Int, Scalar, catalog, per_row
from capscale.formats.base import NO_CONTEXT
from capscale.formats.distributions import NORMAL
from capscale.formats.double_quantized import dynamic_map
from capscale.formats.families import Laplace
from capscale.formats.packing import pack, unpack
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse, measured

FORMAT = catalog.find("nf4-double-quantized")
GROUP, RUN = 64, 256


def rows(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape)
    return (x * 2.0 ** np.linspace(-1, 1, shape[0])[:, None]).astype(np.float32)


def nearest(levels: np.ndarray, x: np.ndarray) -> np.ndarray:
    return levels[np.argmin(np.abs(x[..., None] - levels), axis=-1)]


def double_quantized(x: np.ndarray) -> np.ndarray:
    """NF4 in groups of 64 whose largest magnitudes are quantized in turn, a matrix (rows, columns)."""
    groups = x.astype(np.float64).reshape(x.shape[0], -1, GROUP)
    largest = np.abs(groups).max(axis=-1)
    mean = largest.mean()
    apart = largest - mean
    stored = np.empty_like(apart)
    for start in range(0, apart.shape[1], RUN):
        run = apart[:, start : start + RUN]
        common = np.abs(run).max(axis=1, keepdims=True)
        stored[:, start : start + RUN] = nearest(dynamic_map().levels, run / common) * common + mean
    return (nearest(NF4.levels, groups / largest[..., None]) * stored[..., None]).reshape(x.shape)


@parametrize("shape", [(4, 64), (3, 1024), (2, 64 * 300)], default=[(2, 64 * 300)])
def test_values_are_those_of_the_definition(shape):
    """Runs of fewer scales at the end of rows included; to the rounding of float32."""
    x = rows(shape)
    found = np.asarray(FORMAT.project(jnp.asarray(x), NO_CONTEXT).value)
    close = np.isclose(found, double_quantized(x), rtol=1e-5, atol=1e-7)
    assert close.mean() > 0.9999
    packed = pack(FORMAT, jnp.asarray(x))
    np.testing.assert_array_equal(unpack(packed), found)
    assert len(packed.fields["scales1"]) == 4 * shape[0] * -(-shape[1] // GROUP // RUN)
    assert len(packed.fields["scales2"]) == 4


def test_the_map_of_bitsandbytes():
    levels = dynamic_map().levels
    assert len(levels) == 256
    np.testing.assert_array_equal(levels[:127], -levels[254:127:-1])
    assert (levels[127], levels[255]) == (0.0, 1.0)
    np.testing.assert_allclose(levels[128:131], [0.55e-6, 3.25e-6, 7.75e-6], rtol=1e-6)
    np.testing.assert_allclose(levels[254], 1 - 0.9 / 128, rtol=1e-6)


def test_bits_and_error():
    """QLoRA: 0.127 bits a value in place of 0.5, for 5e-4 of the error."""
    assert round(FORMAT.bits, 3) == 4.127
    plain, found = gmse(catalog.find("nf4")), gmse(FORMAT, samples=GROUP * RUN)
    assert found.standard_error == 0
    assert found.method == "quadrature, runs of 256 scales"
    assert 2e-4 < found.value / plain.value - 1 < 8e-4


@pytest.mark.ci
@pytest.mark.parametrize(
    ("grid", "law", "width"),
    [(NF4, NORMAL, 1024), (AF4, NORMAL, 256), (NF4, Laplace(), 512), (Int(4, "mid-tread"), NORMAL, 512)],
)
def test_the_error_is_the_measured_one(grid, law, width):
    format = Scalar(grid, DoubleQuantized(), GROUP)
    stated, found = gmse(format, law, width), measured(format, law, width)
    assert abs(stated.value - found.value) < 5 * found.standard_error + 1e-4 * stated.value


def test_second_grids_that_are_coarse_are_seen_in_the_error(monkeypatch):
    """The part of the quadrature that eight bits hide: five levels in place of 256."""
    from capscale.formats import double_quantized as module

    coarse = catalog.find("int1").grid.__class__(3, "mid-tread")
    monkeypatch.setattr(module, "dynamic_map", lambda: replace(NF4, values=tuple((coarse.levels / 3).tolist())))
    format = Scalar(NF4, DoubleQuantized(groups=16), GROUP)
    stated, found = gmse(format), measured(format, NORMAL, 1024)
    gmse.cache_clear()
    assert stated.value > 1.01 * gmse(catalog.find("nf4")).value
    assert abs(stated.value - found.value) < 5 * found.standard_error + 1e-3 * stated.value


@pytest.mark.ci
def test_rows_have_a_mean_of_their_own_where_activations_ask_for_it():
    format = per_row(FORMAT)
    assert format.granularity == "row"
    assert format == replace(FORMAT, scale=DoubleQuantized(granularity="row"))
    assert gmse(format).method.startswith("Monte Carlo")
    x = rows((4, 1024))
    whole = np.asarray(format.project(jnp.asarray(x), NO_CONTEXT).value)
    np.testing.assert_array_equal(whole[1:2], format.project(jnp.asarray(x[1:2]), NO_CONTEXT).value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar(NF4, DoubleQuantized()), "several groups of a row share a scale"),
        (lambda: Scalar(Int(4, "twos-complement"), DoubleQuantized(), 64), "largest in magnitude"),
        (lambda: DoubleQuantized(groups=1), "groups"),
        (lambda: DoubleQuantized(granularity="tensor"), "granularity"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_kernels_say_why_there_is_none():
    assert str(spec_of(FORMAT, STRAIGHT_THROUGH)) == "DoubleQuantized scales are left to XLA"
