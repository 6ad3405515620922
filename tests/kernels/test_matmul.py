"""Products with packed weights: the kernels against the reference, the reference against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.matmul import Layout, Weights, matmul
from capscale.kernels.matmul.reference import dequantize, tolerance
from support.cases import parametrize
from support.products import LAYOUTS, RNG, inputs, layout, oracle, weights


@pytest.mark.parametrize("of", LAYOUTS)
def test_weights_are_those_of_the_bytes(of):
    w = weights(of, 3)
    dense = dequantize(w)
    np.testing.assert_array_equal(dense, np.float32(oracle(w)) if of.even else dense)
    np.testing.assert_allclose(dense, oracle(w), rtol=2e-7)


@pytest.mark.parametrize("of", LAYOUTS)
def test_the_reference_is_the_product(of):
    """In float32, where nothing but the sum is rounded."""
    w, x = weights(of, 5), jnp.asarray(RNG.standard_normal((3, of.width)), jnp.float32)
    with dispatch.force("reference"):
        y = np.asarray(matmul(x, w), np.float64)
    dense, wide = oracle(w), np.asarray(x, np.float64)
    bound = tolerance(of.width, jnp.dtype(jnp.float32)) * (np.abs(wide) @ np.abs(dense).T)
    assert np.all(np.abs(y - wide @ dense.T) <= bound)
    assert not np.all(np.abs(y - wide @ np.roll(dense, 1, axis=1).T) <= bound), "the bound bounds"


def both(x: jax.Array, w: Weights, platform: str, dtype=jnp.float32) -> tuple[np.ndarray, np.ndarray]:
    """A kernel, interpreted, and the reference; jitted apart."""
    with dispatch.force("require"), dispatch.target(platform, interpret=True):
        found = jax.jit(partial(matmul, dtype=dtype))(x, w)
    with dispatch.force("reference"):
        return np.asarray(found, np.float64), np.asarray(jax.jit(partial(matmul, dtype=dtype))(x, w), np.float64)


def bound_of(x: jax.Array, w: Weights, dtype=jnp.float32) -> np.ndarray:
    dense = np.asarray(dequantize(w), np.float64)
    return tolerance(w.shape[1], jnp.dtype(dtype)) * (np.abs(np.asarray(x, np.float64)) @ np.abs(dense).T)


INTERPRETERS = [
    "tpu",
    pytest.param(
        "gpu",
        marks=pytest.mark.skipif(
            jax.__version_info__ < (0, 12), reason="jax below 0.12 interprets no transposed wgmma"
        ),
    ),
]


@pytest.mark.kernel("matmul", "interpret-{platform}")
@pytest.mark.parametrize("platform", INTERPRETERS)
@parametrize("of", LAYOUTS, default=4)
def test_kernels_agree_with_the_reference(of, platform):
    w, x = weights(of, 128), inputs(9, of.width)
    found, expected = both(x, w, platform, jnp.bfloat16)
    assert np.all(np.abs(found - expected) <= bound_of(x, w, jnp.bfloat16))


@pytest.mark.kernel("matmul", "interpret-{platform}")
@pytest.mark.parametrize("platform", INTERPRETERS)
@pytest.mark.parametrize("of", [layout(4, 64, 32), layout(4, 64)], ids=["by-group", "by-output"])
def test_scales_of_groups_are_in_rounded_weights_and_those_of_outputs_are_not(of, platform):
    w, x = weights(of, 128), inputs(9, of.width)
    dense = dequantize(w).astype(jnp.bfloat16) if of.group else oracle(w)
    assert not np.array_equal(np.float32(dequantize(w)), np.float32(dequantize(w).astype(jnp.bfloat16)))
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64).T
    for y in both(x, w, platform):
        assert np.all(np.abs(y - expected) <= bound_of(x, w))


@pytest.mark.kernel("matmul", "interpret-{platform}")
@pytest.mark.parametrize("platform", INTERPRETERS)
@parametrize("of", [p for p in LAYOUTS if p.values[0].even and not p.marks], default=2)
def test_kernels_are_exact_on_integers(of, platform):
    """Sums of half-integers below 2^23 are exact in any order."""
    w, x = weights(of, 64, powers=True), inputs(8, of.width, whole=True)
    found, expected = both(x, w, platform)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, np.asarray(x, np.float64) @ oracle(w).T)


@pytest.mark.parametrize(
    ("rows", "outputs", "width"), [(1, 200, 320), (300, 520, 64), pytest.param(17, 640, 5632, marks=pytest.mark.slow)]
)
def test_ragged_blocks_on_tpu(rows, outputs, width):
    w, x = weights(layout(4, width), outputs), inputs(rows, width, whole=True)
    found, expected = both(x, w, "tpu")
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # whole numbers times a scale


def test_leading_axes_and_no_rows():
    w = weights(layout(4, 64), 128)
    x = inputs(6, 64)
    with dispatch.target("tpu", interpret=True):
        np.testing.assert_array_equal(matmul(x.reshape(2, 3, 64), w).reshape(6, 128), matmul(x, w))
        assert matmul(x[:0], w).shape == (0, 128)
        np.testing.assert_array_equal(jax.vmap(matmul, (0, None))(x.reshape(2, 3, 64), w).reshape(6, 128), matmul(x, w))


def test_a_row_of_nan_stays_in_its_row():
    w, x = weights(layout(4, 64), 128), inputs(4, 64)
    with dispatch.target("tpu", interpret=True):
        y = matmul(x.at[1, 3].set(jnp.nan), w)
        np.testing.assert_array_equal(y[jnp.array([0, 2, 3])], matmul(x, w)[jnp.array([0, 2, 3])])
    assert bool(jnp.all(jnp.isnan(y[1])))


def test_gradient_by_inputs():
    w, x = weights(layout(4, 640, 32), 64), jnp.asarray(RNG.standard_normal((3, 640)), jnp.float32)
    g = jax.grad(lambda x: jnp.sum(jnp.sin(matmul(x, w))))(x)
    dense = jnp.asarray(oracle(w), jnp.float32)
    np.testing.assert_allclose(g, jnp.cos(x @ dense.T) @ dense, rtol=1e-4, atol=1e-2)


def test_on_two_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    w, x = weights(layout(4, 64), 128), inputs(8, 64, whole=True)
    spec = jax.sharding.PartitionSpec
    with dispatch.target("tpu", interpret=True):
        run = jax.shard_map(matmul, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec("data"), check_vma=False)
        expected = matmul(x, w)
        np.testing.assert_array_equal(jax.jit(run)(x, w), expected)
        with jax.set_mesh(mesh):
            split = jax.jit(matmul)(jax.device_put(x, jax.NamedSharding(mesh, spec("data"))), w)
            np.testing.assert_array_equal(split, expected)
            np.testing.assert_array_equal(jax.jit(matmul)(x[:3], w), expected[:3])  # rows that do not divide


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 3, "levels": (0.0,) * 8, "width": 64}, "codes of 2, 4 or 8 bits"),
        ({"bits": 1, "levels": (0.0, 1.0), "width": 64, "sparse": True}, "codes of 2, 4 or 8 bits"),
        ({"bits": 2, "levels": (0.0, 1.0), "width": 64}, "2 levels given, 4 codes"),
        ({"bits": 8, "levels": tuple(np.cumsum(np.arange(256.0)).tolist()), "width": 64}, "without even spacing"),
        ({"bits": 4, "levels": tuple(range(16)), "width": 63}, "must divide"),
        ({"bits": 4, "levels": tuple(range(16)), "width": 64, "group": 24}, "must divide the width"),
    ],
)
def test_what_no_kernel_reads_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout(**arguments)


def test_widths_must_agree():
    with pytest.raises(ValueError, match="x has 320 inputs, the packed weights 640"):
        matmul(inputs(2, 320), weights(layout(4, 640), 4))


@pytest.mark.parametrize(
    ("x", "of", "outputs", "platform", "reason"),
    [
        (jnp.zeros((2, 640)), layout(4, 640), 64, "tpu", "x is float32"),
        (jnp.zeros((2, 640)), layout(4, 640), 64, "gpu", "x is float32"),
        (jnp.zeros((2, 640), jnp.bfloat16), layout(4, 640), 60, "gpu", "64 does not divide the 60 outputs"),
        (jnp.zeros((2, 72), jnp.bfloat16), layout(4, 72), 64, "gpu", "16 columns of 2 values do not divide"),
        (jnp.zeros((2, 16500), jnp.bfloat16), layout(4, 16500), 64, "tpu", "no multiple of 128 columns"),
        (jnp.zeros((2, 2048), jnp.bfloat16), layout(1, 2048, 8), 64, "tpu", "have over 32 groups of 8"),
    ],
)
def test_what_kernels_cannot_do_is_said(x, of, outputs, platform, reason):
    w = weights(of, outputs)
    with dispatch.force("require"), dispatch.target(platform), pytest.raises(ValueError, match=reason):
        matmul(x, w)


@pytest.mark.kernel("matmul", "device")
@pytest.mark.device
@pytest.mark.parametrize("of", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 9, 300])
def test_on_the_device(of, rows, device):
    w, x = weights(of, 640), inputs(rows, of.width)
    with dispatch.force("require"):
        found = jax.jit(matmul)(x, w)
    with dispatch.force("reference"):
        expected = jax.jit(matmul)(x, w)
    apart = np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    assert np.all(apart <= bound_of(x, w, jnp.bfloat16))
