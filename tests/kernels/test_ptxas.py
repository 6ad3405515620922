"""Resources of Hopper kernels: by texts written by hand, and by ptxas itself where it is installed."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from capscale.kernels import aot, costs, ptxas
from capscale.kernels.aot import Unavailable
from capscale.kernels.project import Pattern, RmsTimes, Spec, op

from capscale.estimators import Trust
from capscale.formats.grids import Int
from capscale.sweep import hlo
from capscale.sweep.work import work

PTXAS = """
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to something
ptxas info    : Compiling entry function 'k_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for k_mosaic_gpu_kernel
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 2 barriers, 16 bytes cumulative stack size, 1 bytes smem
"""
PTX = """
.visible .entry k_mosaic_gpu_kernel(.param .u64 a)
.reqntid 128, 1, 1
{
\t.reg .pred %p<3>;
\tmov.u32 \t%r1, %tid.x;
\t@%p1 bra \t$L__BB0_2;
\tret;
}
"""
SCRATCH = "Resources(smem_scratch_bytes=28672, tmem_scratch_cols=0)"


def test_texts_are_read():
    found = ptxas.resources(PTXAS, PTX, SCRATCH)
    assert found == ptxas.Resources(168, 8, 12, 28672, 128, 1, 3)


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [
        (168, 28672, 128, 3),  # 65536 / (128 * 168) = 3.05
        (161, 28672, 128, 3),  # given as 168
        (128, 1024, 128, 4),
        (64, 9216, 128, 8),
        (40, 101376, 128, 2),  # 233472 / (101376 + 1024) = 2.28
        (255, 117760, 128, 1),
        (16, 0, 128, 16),  # 2048 threads
        (16, 0, 32, 32),
    ],
)
def test_blocks_fit_by_registers_shared_memory_and_threads(registers, shared, threads, blocks):
    assert ptxas.Resources(registers, 0, 0, shared, threads, 0, 1).blocks == blocks


def test_a_text_without_an_account_is_refused():
    with pytest.raises(ValueError, match="no account of a kernel's resources"):
        ptxas.resources("ptxas fatal", PTX, SCRATCH)


def test_words_name_every_kernel(monkeypatch):
    kernels = {"capscale_forward": ptxas.resources(PTXAS, PTX, SCRATCH)}
    monkeypatch.setattr(costs, "on_hopper", lambda spec, shape: kernels)
    assert costs.costs()["cost-h100"](Spec(Int(4), RmsTimes(0.3), group=384)) == (
        "by ptxas for 4096 x 4224 in bfloat16, not run: forward 168 registers, 20 bytes spilled a thread, 28 KiB "
        "shared, 3 blocks a multiprocessor, wgmma serialised 1 times"
    )


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(aot, "_installed", lambda name: name != "nvidia-nvvm")
    aot.hopper_devices.cache_clear()
    with pytest.raises(Unavailable, match=r"^nvidia-nvvm not installed: pip install jax-cuda13-plugin=="):
        aot.hopper_devices()


def both(spec, backend, x, g):
    """Value and gradient."""
    value, pull = jax.vjp(lambda x: op.project(spec, x, None, op.BackendChoice(backend)), x)
    return value, pull(g)[0]


def moved(program) -> float:
    """Bytes that the kernels and fusions of a program read and write."""
    text = hlo.parse(program.as_text())
    lines = text.lines[text.entry]
    sizes = {line.name: line.result for line in lines}
    return sum(work(line, 0, 1, sizes, text).bytes for line in lines if line.op in ("fusion", "custom-call"))


INT4 = Spec(Int(4), RmsTimes(0.3), mask=Trust())
SPARSE = Spec(Int(4), RmsTimes(0.3), pattern=Pattern(2, 4), mask=lambda x, projection: projection.keep)
HOPPER = [
    (INT4, jnp.bfloat16),
    (replace(INT4, rotation=128, back=True), jnp.bfloat16),
    (INT4, jnp.float32),
    (replace(SPARSE, rotation=128, back=True), jnp.bfloat16),
]


@pytest.mark.ci
@pytest.mark.kernel("project", "ptxas-sm90a")
@pytest.mark.parametrize(("spec", "dtype"), HOPPER)
def test_ptxas_spills_nothing(spec, dtype, monkeypatch):
    """And one kernel reads the rows, of which two blocks share a multiprocessor; the environment is as it was."""
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", "elsewhere")
    try:
        kernels = costs.on_hopper(spec, (256, 4096), dtype)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert list(kernels) == ["capscale_forward"]
    for of in kernels.values():
        assert (of.stored, of.loaded, of.serialised) == (0, 0, 0)
        assert of.blocks >= 2
        assert of.threads == 128
    assert ptxas.os.environ["MOSAIC_GPU_DUMP_TO"] == "elsewhere"


@pytest.mark.ci
@pytest.mark.kernel("project", "ptxas-sm90a")
@pytest.mark.parametrize("rotation", [None, 128])
def test_a_projection_on_hopper_moves_hardly_more_than_the_least(rotation):
    """Rows, cotangents and both results, and bits of the mask twice: rows are read once, and nothing is repacked."""
    spec = replace(INT4, rotation=rotation, back=rotation is not None)
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)
    try:
        program = aot.compile_for_hopper(partial(both, spec, "gpu"), x, x)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert moved(program) / (4 * x.size * x.dtype.itemsize) < 1.05


@pytest.mark.parametrize(
    ("spec", "barriers"),
    [(INT4, 1), (Spec(pattern=Pattern(2, 4), mask=lambda x, projection: projection.keep), 0)],
)
def test_gpus_alone_write_masks_beside_values(spec, barriers):
    traced, x = jax.jit(both, static_argnums=(0, 1)), jnp.ones((2, 128), jnp.bfloat16)
    for platform, count in (("cuda", barriers), ("tpu", 0), ("cpu", 0)):
        text = traced.trace(spec, "reference", x, x).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("optimization_barrier") == count, platform


@pytest.mark.ci
@pytest.mark.kernel("project", "xla-h100")
def test_xla_reads_rows_once_for_values_and_masks():
    """Rows, cotangents and results are 8 bytes a value; two measures, the mask and its choice read more: 14.3."""
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)
    try:
        program = aot.compile_for_hopper(partial(both, INT4, "reference"), x, x)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert moved(program) / x.size < 14.5
