"""Products with packed weights: the kernels against the reference, the reference against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import ahead, dispatch
from capscale.kernels.ahead import CHIPS, lower_for_hopper
from capscale.kernels.matmul import Layout, Weights, matmul
from capscale.kernels.matmul.reference import dequantize, tolerance
from capscale.kernels.matmul.tpu import blocks, vmem_bytes
from targets import compile_for_tpu

from capscale.models.ladder import LADDERS

RNG = np.random.default_rng(0)
UNEVEN = {4: tuple(np.sort(RNG.standard_normal(16)).tolist())}
PATTERNS = np.array([first | second << 2 for first in range(4) for second in range(first + 1, 4)])


def layout(bits: int, width: int, group: int | None = None, sparse: bool = False, even: bool = True) -> Layout:
    levels = tuple((np.arange(2**bits) - 2 ** (bits - 1) + 0.5).tolist()) if even else UNEVEN[bits]
    return Layout(bits, levels, width, group, sparse)


def weights(of: Layout, outputs: int, powers: bool = False) -> Weights:
    """Random codes; scales between 1/2 and 2, or powers of two."""
    codes = RNG.integers(0, 256, (of.byte_planes, outputs, of.columns))
    runs = PATTERNS[RNG.integers(0, 6, (outputs, of.width // 4))] if of.sparse else None
    pattern = None if runs is None else jnp.asarray(runs[:, 0::2] | runs[:, 1::2] << 4, jnp.uint8)
    exponent = RNG.uniform(-1, 1, (outputs, of.width // of.group if of.group else 1))
    scale = np.exp2(np.round(exponent) if powers else exponent)
    return Weights(jnp.asarray(codes, jnp.uint8), pattern, jnp.asarray(scale, jnp.float32), of)


def oracle(w: Weights) -> np.ndarray:
    """The weights in float64, code by code from the bytes."""
    of, (outputs, width) = w.layout, w.shape
    codes, dense = np.asarray(w.codes), np.zeros((outputs, width))
    for f in range(outputs):
        for column in range(of.columns):
            word = sum(int(codes[plane, f, column]) << 8 * plane for plane in range(of.byte_planes))
            for i in range(8 * of.byte_planes // of.bits):
                level = of.levels[word >> of.bits * i & 2**of.bits - 1]
                if w.pattern is None:
                    k = column * of.values + i
                else:
                    nibble = int(w.pattern[f, column]) >> 4 * (i // 2)
                    k = column * 8 + 4 * (i // 2) + (nibble >> 2 * (i % 2) & 3)
                dense[f, k] = level
    return dense * np.repeat(np.asarray(w.scale, np.float64), width // w.scale.shape[1], axis=1)


def inputs(rows: int, width: int, whole: bool = False) -> jax.Array:
    x = RNG.integers(-4, 5, (rows, width)) if whole else RNG.standard_normal((rows, width))
    return jnp.asarray(x, jnp.bfloat16)


def named(of: Layout, *marks):
    name = f"{of.bits}bit-{of.width}-g{of.group}{'-2:4' * of.sparse}{'' if of.even else '-codebook'}"
    return pytest.param(of, id=name, marks=marks)


LAYOUTS = [
    *(
        named(of)
        for of in (
            layout(1, 128),
            layout(2, 256, 64),
            layout(4, 640),
            layout(4, 64, 32),
            layout(8, 128),
            layout(4, 128, even=False),
            layout(2, 128, sparse=True),
            layout(4, 256, 128, sparse=True, even=False),
            layout(8, 128, 32, sparse=True),
        )
    ),
    *(
        named(of, pytest.mark.slow)
        for of in (
            layout(1, 640, 32),
            layout(2, 640),
            layout(4, 1792, 128),
            layout(4, 1280, 32),
            layout(8, 640, 32),
            layout(2, 1792, 64),
            layout(4, 640, 16, even=False),
            layout(4, 1792, sparse=True),
            layout(8, 5632),
            layout(4, 1024, 128, sparse=True),
        )
    ),
]


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


@pytest.mark.parametrize("platform", INTERPRETERS)
@pytest.mark.parametrize("of", LAYOUTS)
def test_kernels_agree_with_the_reference(of, platform):
    w, x = weights(of, 128), inputs(9, of.width)
    found, expected = both(x, w, platform, jnp.bfloat16)
    assert np.all(np.abs(found - expected) <= bound_of(x, w, jnp.bfloat16))


@pytest.mark.parametrize("platform", INTERPRETERS)
@pytest.mark.parametrize("of", [p for p in LAYOUTS if p.values[0].even and not p.marks])
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


def test_compiles_for_a_mesh():
    """Rows split over four chips, by the mesh in the context alone."""
    try:
        devices = ahead.tpu_devices("v5e:2x2")
    except ahead.Unavailable as reason:
        pytest.skip(str(reason))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    rows, same = (jax.NamedSharding(mesh, jax.P(axis)) for axis in ("data", None))
    x, w = inputs(8, 640), weights(layout(4, 640), 256)
    shapes = jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape, y.dtype), (x, w))
    with dispatch.target("tpu"), jax.set_mesh(mesh):
        text = jax.jit(matmul, in_shardings=(rows, same), out_shardings=rows).lower(*shapes).compile().as_text()
    assert "packed_matmul" in text
    assert "bf16[4,2,160]" in text or "bf16[2,640]" in text, "every chip has two rows"


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


COMPILED = [
    named(layout(4, 640)),
    named(layout(4, 1792, 128, even=False)),
    named(layout(4, 640, sparse=True)),
    *(
        named(of, pytest.mark.slow)
        for of in (
            layout(1, 640),
            layout(2, 4096),
            layout(8, 5632),
            layout(4, 4096, 32),
            layout(8, 1792, 32, sparse=True),
            layout(2, 2048, 128, sparse=True),
        )
    ),
]


@pytest.mark.parametrize("generation", CHIPS)
@pytest.mark.parametrize("of", COMPILED)
def test_tpu_compile(of, generation):
    with dispatch.force("require"), dispatch.target("tpu"):
        compiled = compile_for_tpu(generation, matmul, inputs(8, of.width), weights(of, 640))
    assert "packed_matmul" in compiled.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("generation", CHIPS)
@pytest.mark.parametrize(("rows", "outputs", "width"), [(1, 8192, 8192), (4096, 5632, 2048), (300, 1000, 1792)])
def test_tpu_compile_of_other_shapes(rows, outputs, width, generation):
    with dispatch.force("require"), dispatch.target("tpu"):
        compile_for_tpu(generation, matmul, inputs(rows, width), weights(layout(4, width), outputs))


@pytest.mark.parametrize("generation", ["v4"])
@pytest.mark.parametrize(
    "of",
    [
        named(layout(8, 8176)),
        *(named(of, pytest.mark.slow) for of in (layout(8, 8184, sparse=True), layout(2, 2048, 16), layout(4, 8152))),
    ],
)
def test_the_largest_blocks_fit_on_the_smallest_chip(of, generation):
    """Widths that are cut nowhere, by rows enough: blocks are made smaller than they are elsewhere."""
    with dispatch.force("require"), dispatch.target("tpu"):
        compile_for_tpu(generation, matmul, inputs(300, of.width), weights(of, 640))


def test_blocks_of_the_ladders_fit():
    models = [model for ladder in LADDERS.values() for model in ladder.sizes.values()]
    for width in {width for model in models for width in (model.width, model.hidden)}:
        of = layout(4, width)
        assert blocks(of, 4096, 8192) is not None
        assert vmem_bytes(of, 256, 512) > vmem_bytes(of, 64, 128)


@pytest.mark.parametrize("of", COMPILED)
@pytest.mark.parametrize("rows", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_cuda_lowering(of, rows):
    with dispatch.force("require"), dispatch.target("gpu"):
        text = lower_for_hopper(matmul, inputs(rows, of.width), weights(of, 640))
    assert "mosaic_gpu" in text


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
