"""Products with packed weights compile for TPUs, alone and on a mesh, and lower for Hopper; blocks fit into VMEM."""

import jax
import pytest
from capscale.kernels import aot, dispatch
from capscale.kernels.aot import CHIPS, lower_for_hopper
from capscale.kernels.matmul import matmul
from capscale.kernels.matmul.tpu import blocks, vmem_bytes
from support.cases import parametrize
from support.products import inputs, layout, named, weights
from support.targets import compile_for_tpu

from capscale.models.ladder import LADDERS

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


@pytest.mark.kernel("matmul", "tpu-{generation}")
@pytest.mark.parametrize("generation", CHIPS)
@parametrize("of", COMPILED, default=1)
def test_tpu_compile(of, generation):
    with dispatch.force("require"), dispatch.target("tpu"):
        compiled = compile_for_tpu(generation, matmul, inputs(8, of.width), weights(of, 640))
    assert "packed_matmul" in compiled.as_text()


@pytest.mark.parametrize("sparse", [False, True])
def test_nothing_is_laid_out_anew_to_decode(sparse):
    """On a v5p, whose compiler has no fast memory for it: what is copied is a small part of what must be read."""
    w = weights(layout(4, 4096, 128, sparse=sparse), 2048)
    with dispatch.force("require"), dispatch.target("tpu"):
        memory = compile_for_tpu("v5p", matmul, inputs(8, 4096), w).memory_analysis()
    assert memory.temp_size_in_bytes < w.codes.nbytes / 8


@pytest.mark.kernel("matmul", "tpu-{generation}")
@pytest.mark.slow
@pytest.mark.parametrize("generation", CHIPS)
@pytest.mark.parametrize(("rows", "outputs", "width"), [(1, 8192, 8192), (4096, 5632, 2048), (300, 1000, 1792)])
def test_tpu_compile_of_other_shapes(rows, outputs, width, generation):
    with dispatch.force("require"), dispatch.target("tpu"):
        compile_for_tpu(generation, matmul, inputs(rows, width), weights(layout(4, width), outputs))


@pytest.mark.kernel("matmul", "tpu-v4")
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


@pytest.mark.kernel("matmul", "cuda-sm90")
@pytest.mark.parametrize("of", COMPILED)
@pytest.mark.parametrize("rows", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_cuda_lowering(of, rows):
    with dispatch.force("require"), dispatch.target("gpu"):
        text = lower_for_hopper(matmul, inputs(rows, of.width), weights(of, 640))
    assert "mosaic_gpu" in text


def test_compiles_for_a_mesh():
    """Rows split over four chips, by the mesh in the context alone."""
    try:
        devices = aot.tpu_devices("v5e:2x2")
    except aot.Unavailable as reason:
        pytest.skip(str(reason))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    rows, same = (jax.NamedSharding(mesh, jax.P(axis)) for axis in ("data", None))
    x, w = inputs(8, 640), weights(layout(4, 640), 256)
    shapes = jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape, y.dtype), (x, w))
    with dispatch.target("tpu"), jax.set_mesh(mesh):
        text = jax.jit(matmul, in_shardings=(rows, same), out_shardings=rows).lower(*shapes).compile().as_text()
    assert "packed_matmul" in text
    assert "bf16[2,640]" in text, "every chip has two rows"
