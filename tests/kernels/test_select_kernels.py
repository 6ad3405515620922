"""Selection by kernels: interpreted = XLA's search, bit for bit; compiled for TPUs, lowered for Hopper."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from capscale.kernels.aot import CHIPS, lower_for_hopper
from capscale.kernels.select import kth_magnitude, largest
from jax.sharding import NamedSharding, PartitionSpec
from support.cases import parametrize
from support.targets import compile_for_tpu

from capscale.models.ladder import LADDERS

RNG = np.random.default_rng(0)
SHAPE = (37, 200)
DATA = {
    "gaussian": RNG.standard_normal(SHAPE),
    "heavy": np.exp(12 * RNG.standard_normal(SHAPE)),
    "ties": RNG.integers(-3, 4, SHAPE).astype(float),
    "constant": np.full(SHAPE, -1.5),
    "zeros": np.zeros(SHAPE),
    "mostly-zero": np.where(RNG.random(SHAPE) < 0.98, 0.0, RNG.standard_normal(SHAPE)),
    "nan": np.where(RNG.random(SHAPE) < 0.02, np.nan, RNG.standard_normal(SHAPE)),
    "infinite": np.where(RNG.random(SHAPE) < 0.02, -np.inf, RNG.standard_normal(SHAPE)),
}
CASES = [("tpu", (-1,)), ("tpu", (-2, -1)), ("gpu", (-1,))]
PAIRS = {
    (platform, axes): (
        jax.jit(lambda x, k, axes=axes: largest(x, k, axes)),
        jax.jit(lambda x, k, axes=axes: largest(x, k, axes)),
    )
    for platform, axes in CASES
}


def both(platform, axes, x, k):
    """The kernel, interpreted, and XLA's search."""
    kernel, plain = PAIRS[platform, axes]
    with dispatch.force("require"), dispatch.target(platform, interpret=True):
        found = kernel(x, k)
    with dispatch.force("reference"):
        return found, plain(x, k)


@pytest.mark.kernel("select", "interpret-{platform}")
@pytest.mark.parametrize(("platform", "axes"), CASES)
@parametrize("dtype", [jnp.float32, jnp.bfloat16], default=[jnp.bfloat16])
@parametrize("name", list(DATA), default=1)
def test_kernels_select_as_the_search_does(name, dtype, platform, axes):
    x = jnp.asarray(DATA[name], dtype)
    size = x.shape[-1] if axes == (-1,) else x.size
    for k in (1, size // 3, size - 1, size) if name in ("gaussian", "ties", "nan") else (size // 3,):
        (mask, kth), (expected, expected_kth) = both(platform, axes, x, k)
        np.testing.assert_array_equal(mask, expected)
        assert int(mask.sum()) == k * x.size // size
        np.testing.assert_array_equal(kth.astype(jnp.float32), expected_kth.astype(jnp.float32))
        assert (kth.dtype, kth.shape) == (expected_kth.dtype, expected_kth.shape)


def test_a_mask_of_all_ties_would_be_seen():
    x = jnp.asarray(DATA["ties"], jnp.float32)
    (mask, kth), _ = both("tpu", (-1,), x, 50)
    assert int((jnp.abs(x) >= kth).sum()) > int(mask.sum())


@pytest.mark.kernel("select", "interpret-{platform}")
@pytest.mark.parametrize(("platform", "axes"), CASES)
@parametrize("shape", [(1, 1), (2, 40, 33)], default=1)
def test_shapes_and_maps(shape, platform, axes):
    x = jnp.asarray(RNG.integers(-9, 10, shape), jnp.float32)
    k = max(1, (shape[-1] if axes == (-1,) else shape[-1] * shape[-2]) // 2)
    (mask, kth), (expected, expected_kth) = both(platform, axes, x, k)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(kth, expected_kth)
    if len(shape) == 3 and platform == "tpu":
        with dispatch.force("require"), dispatch.target(platform, interpret=True):
            mapped = jax.vmap(lambda x: largest(x, k, axes)[0])(x)
            looped = jax.lax.map(lambda x: largest(x, k, axes)[0], x)
        np.testing.assert_array_equal(mapped, expected)
        np.testing.assert_array_equal(looped, expected)


def test_the_kth_alone():
    x = jnp.asarray(DATA["gaussian"], jnp.float32)
    with dispatch.force("require"), dispatch.target("tpu", interpret=True):
        found = kth_magnitude(x, 20)
    np.testing.assert_array_equal(found, np.sort(np.abs(np.asarray(x)), axis=1)[:, -20:-19])


def test_no_gradient_passes_and_none_is_refused():
    x = jnp.asarray(DATA["gaussian"], jnp.float32)
    with dispatch.force("require"), dispatch.target("tpu", interpret=True):
        g = jax.grad(lambda x: jnp.sum(jnp.where(largest(x, 20)[0], x, 0.0)))(x)
    np.testing.assert_array_equal(g, jnp.where(largest(x, 20)[0], 1.0, 0.0))


@pytest.mark.parametrize(
    ("shape", "dtype", "k", "axes", "platform", "reason"),
    [
        ((8, 64), jnp.float16, 3, (-1,), "tpu", "float16"),
        ((8, 64), jnp.float32, 3, (-2,), "tpu", "neither the rows nor the matrices"),
        ((8, 64), jnp.float32, np.full((8, 1), 3), (-1,), "tpu", "takes one number"),
        ((4096, 4096), jnp.float32, 3, (-2, -1), "tpu", "do not stay in"),
        ((8, 64), jnp.float32, 3, (-2, -1), "gpu", "does not stay on the chip"),
        ((1, 20000), jnp.float32, 3, (-1,), "gpu", "rows of 20000 values"),
    ],
)
def test_what_kernels_cannot_do_is_said(*, shape, dtype, k, axes, platform, reason):
    x = jax.ShapeDtypeStruct(shape, dtype)
    with dispatch.force("require"), dispatch.target(platform), pytest.raises(ValueError, match=reason):
        jax.eval_shape(lambda x: largest(x, jnp.asarray(k), axes), x)


def test_on_a_mesh_xla_counts(caplog):
    """A kernel sees one chip's share; the counts of a split tensor are XLA's to add."""
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(DATA["ties"][:36], jnp.float32)
    expected = largest(x, 1000, (-2, -1))[0]
    with dispatch.target("tpu", interpret=True), jax.set_mesh(mesh), caplog.at_level(logging.INFO, "capscale.kernels"):
        run = jax.jit(lambda x: largest(x, 1000, (-2, -1))[0])
        found = run(jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp", None))))
    np.testing.assert_array_equal(found, expected)
    assert "XLA adds up the counts" in caplog.text


@pytest.mark.ci
def test_inside_shard_map_every_device_has_rows_of_its_own():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(DATA["ties"][:36], jnp.float32)
    rows = PartitionSpec("data")
    with dispatch.force("require"), dispatch.target("tpu", interpret=True):
        run = jax.shard_map(lambda x: largest(x, 50)[0], mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
        np.testing.assert_array_equal(jax.jit(run)(x), largest(x, 50)[0])


@pytest.mark.kernel("select", "tpu-{generation}")
@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
@parametrize(
    ("dtype", "generation"),
    [
        *((jnp.float32, chip) for chip in CHIPS),
        *(pytest.param(jnp.bfloat16, chip, marks=pytest.mark.slow) for chip in CHIPS),
    ],
    default=[(jnp.float32, "v5e")],
)
def test_tpu_compile(dtype, axes, generation):
    x = jax.ShapeDtypeStruct((640, 1792), dtype)
    with dispatch.force("require"), dispatch.target("tpu"):
        compiled = compile_for_tpu(generation, lambda x: largest(x, 1000, axes), x)
    assert "select" in compiled.as_text()
    assert "custom-call" in compiled.as_text()


@pytest.mark.kernel("select", "tpu-{generation}")
@parametrize("generation", CHIPS, default=["v5e"])
@pytest.mark.parametrize("mapped", [False, True])
def test_tpu_compile_of_several_matrices(mapped, generation):
    """Each fills VMEM by itself: the next one must not be read meanwhile."""
    x = jax.ShapeDtypeStruct((3, 1280, 1536), jnp.float32)

    def select(x):
        return jax.vmap(lambda x: largest(x, 1000, (-2, -1)))(x) if mapped else largest(x, 1000, (-2, -1))

    with dispatch.force("require"), dispatch.target("tpu"):
        assert "select" in compile_for_tpu(generation, select, x).as_text()


@pytest.mark.kernel("select", "tpu-{generation}")
@pytest.mark.slow
@pytest.mark.parametrize("generation", CHIPS)
@pytest.mark.parametrize("shape", [(4, 1280, 1536), (1, 1000, 1000), (1, 8, 16384), (2, 3, 70)])
@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
def test_tpu_compile_of_other_shapes(axes, shape, generation):
    with dispatch.force("require"), dispatch.target("tpu"):
        compile_for_tpu(generation, lambda x: largest(x, 2, axes), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_every_row_of_the_ladders_fits_on_tpu():
    from capscale.kernels.select import tpu

    models = [model for ladder in LADDERS.values() for model in ladder.sizes.values()]
    widths = {width for model in models for width in (model.width, model.hidden)}
    assert len(widths) > 10
    for width in widths:
        assert tpu.unsupported((width, width), jnp.dtype(jnp.float32), (-1,)) is None


@pytest.mark.kernel("select", "cuda-sm90")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("columns", [640, 5632])
def test_cuda_lowering(columns, dtype):
    with dispatch.force("require"), dispatch.target("gpu"):
        text = lower_for_hopper(lambda x: largest(x, 300), jax.ShapeDtypeStruct((64, columns), dtype))
    assert "mosaic_gpu" in text


@pytest.mark.kernel("select", "device")
@pytest.mark.device
@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", DATA)
def test_on_the_device(name, dtype, axes, device):
    if device == "gpu" and axes != (-1,):
        pytest.skip("no GPU kernel selects over whole matrices: XLA does")
    x = jnp.asarray(DATA[name], dtype)
    for k in (1, 100, x.shape[-1]):
        with dispatch.force("require"):
            found = jax.jit(lambda x, k=k: largest(x, k, axes))(x)
        with dispatch.force("reference"):
            expected = jax.jit(lambda x, k=k: largest(x, k, axes))(x)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1].astype(jnp.float32), expected[1].astype(jnp.float32))
