"""Projection on Hopper: interpreted against the reference, and lowered; on the device where there is one."""

from functools import partial
from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.aot import Unavailable, lower_for_hopper
from capscale.kernels.compare import close, gradient_bound, same, same_codes, tolerance
from capscale.kernels.project import RangeOver, RmsTimes, Spec, Unsupported, reference
from capscale.kernels.project.codes import decode
from capscale.kernels.project.gpu import encode as gpu_codes
from capscale.kernels.project.gpu import launch
from capscale.kernels.project.gpu import project as gpu
from capscale.kernels.project.gpu.cut import TILE, Block
from capscale.kernels.testing import check_cuda, check_gpu_interpreted, rows
from support.cases import parametrize

from capscale.defaults import default_estimator
from capscale.estimators import Both, BRms, Trust
from capscale.formats.base import Format
from capscale.formats.catalog import FORMATS, find
from capscale.formats.compose import SparseQuantized
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.pattern import NM
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, PowerOfTwo, Rms, TwoLevel
from capscale.formats.vector import Vector
from capscale.fused import spec_of
from capscale.representation import Operand

MXFP4, NVFP4 = Scalar(E2M1, PowerOfTwo(), 32), Scalar(E2M1, TwoLevel(), 16)


def spec(name: str | Format | Operand, rotation: int | None = None, back: bool = False):
    format = find(name) if isinstance(name, str) else name
    of = format if isinstance(format, Operand) else Operand(format, default_estimator(format))
    found = spec_of(of.format, of.estimator, rotation=rotation, back=back)
    assert not isinstance(found, Unsupported), found
    return found


FEW = [("int4", 128, True), ("e2m1", None, False), ("int4-g32", None, False), ("mxfp4", None, False)]
SLOW = [("lloyd4", 64, False), ("nvfp4", None, False), ("int1", 128, False)]
CASES = [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]

# Neighbours change places: patterns, codebooks, and groups that a tile holds several of.
EXCHANGED = {
    "4:8-pairs": NM(4, 8, unit=2),
    "2:4+int4": find("2:4+int4"),
    "dense scales": SparseQuantized(NM(2, 4), Scalar(Int(4)), scales_from="dense"),
    "dense scales of groups in a run": SparseQuantized(NM(4, 8), Scalar(Int(4), Absmax(), 4), scales_from="dense"),
    "runs of 16": NM(4, 16),
    "2:4+mxfp4": find("2:4+mxfp4"),
    "a run is a group": SparseQuantized(NM(2, 4), Scalar(Int(3), Rms(), 4)),
    "groups in strips": SparseQuantized(NM(2, 4), NVFP4),
    "int4-g4": find("int4-g4"),
    "higgs-d2-n16": find("higgs-d2-n16"),
    "vectors in groups": Vector(2, 16, 32),
    "higgs-d4-n256": find("higgs-d4-n256"),
    "b-rms": Operand(NM(2, 4), BRms(0.1)),
    "b-rms of pairs": Operand(NM(4, 8, unit=2), BRms(0.1)),
    "b-rms+trust": Operand(find("2:4+int4"), Both(BRms(0.1))),
}
GROUPED = ["int4-g4", "int4-g16", "mxfp4", "nvfp4", "int4-g64", "absmax-int4-g32"]
SHORT = {
    "2:4+int4": jnp.bfloat16,
    "b-rms": jnp.bfloat16,
    "b-rms+trust": jnp.float32,
    "dense scales of groups in a run": jnp.float32,
    "higgs-d2-n16": jnp.bfloat16,
}
NAMED = {name: f for name, f in FORMATS.items() if not isinstance(spec_of(f, default_estimator(f)), Unsupported)}


def given(of, count: int) -> jax.Array | None:
    return jnp.linspace(0.25, 0.5, count).reshape(count, 1) if of.scale is not None and of.scale.given else None


def run(of, shape, dtype, interpret: bool):
    """A kernel and the reference, forward and backward, on finite rows: on a device, where tensor cores move values
    over cell boundaries, on as many different ones as are counted."""
    x = jax.random.normal(jax.random.key(0), (4 if interpret else shape[0], shape[1]), jnp.float32).astype(dtype)
    x = jnp.tile(x, (-(-shape[0] // x.shape[0]), 1))[: shape[0]]
    g = rows(shape, dtype, seed=1) if shape[0] < 5 else jnp.ones(shape, dtype)
    options = {"interpret": True} if interpret else {}
    numbers = given(of, shape[0])
    found = gpu.project(of, x, numbers, **options)
    expected = reference.project(of, x, numbers)
    close(found, expected, shape[1], tolerance(dtype, exact_rotation=False, tensor_cores=not interpret))
    back = gpu.backward(of, expected.mask_RW, g, **options)
    wanted = reference.backward(of, expected.mask_RW, g)
    eps = gradient_bound(dtype, tensor_cores=not interpret)
    bound = eps * float(jnp.max(jnp.abs(wanted.astype(jnp.float32))))
    np.testing.assert_allclose(back.astype(jnp.float32), wanted.astype(jnp.float32), atol=bound)
    return found


@pytest.mark.kernel("project", "interpret-gpu")
@parametrize(
    ("name", "rotation", "back", "dtype"),
    [
        *((*case, jnp.bfloat16) for case in FEW),
        *(pytest.param(*case, jnp.bfloat16, marks=pytest.mark.slow) for case in SLOW),
        *(pytest.param(*case, jnp.float32, marks=pytest.mark.slow) for case in (*FEW, *SLOW)),
    ],
    default=1,
)
def test_interpreted(name, rotation, back, dtype):
    shape = (70, 256) if name == "e2m1" else (3, 256)  # one of them in two blocks, the second one ragged
    found = run(spec(name, rotation, back), shape, dtype, interpret=True)
    assert found.value_RK.shape == shape


@pytest.mark.ci
@pytest.mark.kernel("project", "interpret-gpu")
@pytest.mark.parametrize(("buffers", "room"), [(1, [1, 2, 1]), (2, [2, 2, 2])])
def test_a_block_takes_several_rows_after_each_other(buffers, room, monkeypatch):
    """24 rows of 5 tiles, two groups of 64, at a time, the last time some of them again, forward and backward."""
    monkeypatch.setattr(launch, "MULTIPROCESSORS", 1)
    monkeypatch.setattr(launch, "BLOCKS", 1)
    # Blocks that there is room for with two buffers, with one, and with those that it takes.
    rooms = cycle(room)
    monkeypatch.setattr(launch, "_resident", lambda _: next(rooms))
    of, x = spec("int4", 128, back=True), rows((56, 640), jnp.bfloat16)
    monkeypatch.setattr(launch.Memory, "of", counted := Counted(launch.Memory.of))
    found, expected = gpu.project(of, x, interpret=True), reference.project(of, x)
    close(found, expected, 640, tolerance(x.dtype, exact_rotation=False, tensor_cores=False))
    back = gpu.backward(of, expected.mask_RW, x, interpret=True)
    wanted = reference.backward(of, expected.mask_RW, x)
    np.testing.assert_allclose(back.astype(jnp.float32), wanted.astype(jnp.float32), atol=2**-7)
    assert [memory.stages for memory in counted.made] == [buffers, buffers]


@pytest.mark.ci
@pytest.mark.kernel("project", "interpret-gpu")
@pytest.mark.parametrize("rule", [RangeOver(-7.5, 7.5, zero_point=False), RmsTimes(0.3)])
def test_rows_that_are_filled_up_are_measured_without_what_fills_them(rule, monkeypatch):
    """Three tiles as eight; values above zero, which zeros would be the low end of."""
    monkeypatch.setattr(gpu, "block_of", lambda *_: Block(1, 8, 3, TILE))
    of, x = Spec(Int(4), rule, mask=Trust()), jnp.abs(rows((3, 384), jnp.float32)) + 1
    same(gpu.project(of, x, interpret=True), reference.project(of, x), 384, x)
    encoded = None if isinstance(rule, RangeOver) else gpu_codes.encode(of, x, interpret=True)
    if encoded is not None:
        same_codes(encoded, reference.encode(of, x))


class Counted:
    """A function that keeps what it made."""

    def __init__(self, function):
        self.function, self.made = function, []

    def __call__(self, *operands):
        self.made.append(self.function(*operands))
        return self.made[-1]


def interpreted(of, dtype, width: int = 128):
    try:
        check_gpu_interpreted(of, dtype, width)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if SHORT.get(name) == dtype else pytest.mark.slow)
        for name in EXCHANGED
        for dtype in (jnp.float32, jnp.bfloat16)
    ],
)
def test_exchanged_neighbours_are_the_references_bit_for_bit(name, dtype):
    interpreted(spec(EXCHANGED[name]), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("name", EXCHANGED)
def test_exchanged_and_rotated(name, back):
    interpreted(spec(EXCHANGED[name], 128, back), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("rotation", [None, 128])
@pytest.mark.parametrize("group", [4, 16, 128, 256])
def test_the_root_mean_square_is_that_of_all_groups(group, rotation):
    """Runs that are groups, several groups to a tile, a tile that is one, and groups of several tiles."""
    of = Operand(SparseQuantized(NM(2, 4), Scalar(Int(4), Absmax(), group)), Both(BRms(0.1)))
    interpreted(spec(of, rotation, bool(rotation)), jnp.float32, 512)


@pytest.mark.kernel("project", "cuda-sm90")
@parametrize("group", [4, pytest.param(16, marks=pytest.mark.slow), 256], default=[4])
def test_groups_and_a_mask_by_the_row_lower(group):
    of = spec(Operand(SparseQuantized(NM(2, 4), Scalar(Int(4), Absmax(), group)), Both(BRms(0.1))))
    check_cuda(of, (100, 512))


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPED)
def test_groups_of_a_rotated_tile(name):
    interpreted(spec(name, 128, True), jnp.float32, 256)


@pytest.mark.parametrize("name", ["int4", "mxfp4", pytest.param("lsq4", marks=pytest.mark.slow)])
def test_codes_are_the_references_bit_for_bit(name):
    interpreted(spec(name), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rotation"),
    [
        ("mxfp4", 128),
        ("int4-g4", None),
        ("nvfp4", 128),
        ("int3", 128),
    ],
)
def test_codes_decode_to_the_values(name, rotation):
    """They are the reference's (see `check_gpu_interpreted`); here those of a rotated tile's groups too."""
    of = spec(name, rotation)
    x, numbers = rows((3, 256), jnp.float32), given(of, 3)
    if jax.__version_info__ < (0, 12) and gpu.whole_interleave(of, 256).interleaved:
        pytest.skip("jax below 0.12 interprets no transposed wgmma")
    encoded = gpu_codes.encode(of, x, numbers, interpret=True)
    value = gpu.project(of, x, numbers, interpret=True).value_RK
    np.testing.assert_array_equal(decode(of, encoded, 256, x.dtype), value)


@pytest.mark.parametrize("bad", ["ties to the last", "columns out of order"])
def test_a_wrong_exchange_would_be_seen(bad, monkeypatch):
    survivors = gpu.strips.survivors
    if bad == "ties to the last":
        monkeypatch.setattr(gpu.strips, "survivors", lambda of, x: [y[::-1] for y in survivors(of, x[::-1])])
    else:
        monkeypatch.setattr(gpu.Tiles, "gathered", lambda _, load: load())
    with pytest.raises(AssertionError, match="value: "):
        interpreted(spec("2:4"), jnp.bfloat16)


@pytest.mark.parametrize("rotation", [None, 64, 128])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nothing_that_the_kernel_is_for_is_left_to_xla(rotation, dtype):
    reasons = {n: gpu.unsupported(spec(n, rotation, bool(rotation)), (1000, 1280), dtype) for n in NAMED}
    assert {n: reason for n, reason in reasons.items() if reason is not None} == {}


@pytest.mark.kernel("project", "cuda-sm90")
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_cuda_lowering_of_the_catalog(name):
    """Plain; rotated it is a check of the kit."""
    check_cuda(spec(name), (100, 1280))


@pytest.mark.ci
def test_another_grid_would_be_seen():
    of, other = spec("int4", 128), spec("int3", 128)
    x = rows((4, 256), jnp.float32)
    with pytest.raises(AssertionError, match="differ"):
        close(gpu.project(of, x, interpret=True), reference.project(other, x), 256, tolerance(x.dtype, False))


@pytest.mark.kernel("project", "cuda-sm90")
@parametrize(("name", "rotation", "back"), CASES, default=1)
def test_cuda_lowering(name, rotation, back):
    check_cuda(spec(name, rotation, back), (100, 640))


@pytest.mark.kernel("project", "cuda-sm90")
@parametrize(
    "group",
    [8, pytest.param(16, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow), 96],
    default=[96],
)
def test_groups_below_a_tile_lower(group):
    """Whole rows of the kernel where bytes of that width can be copied, else several groups to a tile."""
    of, x = spec(Scalar(Int(4), Absmax(), group)), jax.ShapeDtypeStruct((64, 384), jnp.bfloat16)
    for function in (gpu.project, gpu_codes.encode):
        assert "mosaic_gpu" in lower_for_hopper(partial(function, of), x)


def test_no_rows():
    x = jnp.zeros((0, 256), jnp.bfloat16)
    found = gpu.project(spec("int4"), x)
    assert found.value_RK.shape == (0, 256)
    assert found.mask_RW is not None
    assert found.mask_RW.shape == (0, 128)
    encoded = gpu_codes.encode(spec("int4-g32"), x)
    assert (encoded.codes.shape, encoded.scales.shape) == ((0, 128), (0, 8))


@pytest.mark.parametrize(
    ("name", "rotation", "width", "dtype", "reason"),
    [
        ("int4", None, 256, jnp.float16, "not float16"),
        (NM(4, 12), None, 384, jnp.bfloat16, "runs of 12 neighbours"),
        (NM(8, 32, unit=8), None, 256, jnp.bfloat16, "strips of 4 columns"),
        (SparseQuantized(NM(4, 8), MXFP4), None, 256, jnp.bfloat16, "strips of 4 columns"),
        (Scalar(Int(4), Absmax(), 96), 32, 384, jnp.bfloat16, "groups of 96 values"),
        (Scalar(Int(4), Absmax(), 40), None, 640, jnp.bfloat16, "groups of 40 values"),
        (Scalar(Int(4), Absmax(), 8), None, 200, jnp.bfloat16, "rows of 200 values"),
        ("int4-g4", None, 200, jnp.bfloat16, "rows of 200 values"),
        ("int4", 256, 1024, jnp.bfloat16, "rotation of 256"),
        ("int4", None, 200, jnp.bfloat16, "rows of 200 values"),
        ("int4", None, 0, jnp.bfloat16, "rows of 0 values"),
        ("int4", 128, 200, jnp.bfloat16, "does not divide"),
    ],
)
def test_what_the_kernel_cannot_do_is_said(name, rotation, width, dtype, reason):
    assert reason in (gpu.unsupported(spec(name, rotation), (8, width), jnp.dtype(dtype)) or "")


@pytest.mark.kernel("project", "device")
@pytest.mark.device
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "rotation", "back"), CASES)
@pytest.mark.parametrize("shape", [(3, 256), (300, 640), (128, 1792)])
def test_on_the_device(*, name, rotation, back, shape, dtype, device):
    if device != "gpu":
        pytest.skip("the kernel of this file is for GPUs")
    run(spec(name, rotation, back), shape, dtype, interpret=False)


@pytest.mark.kernel("project", "device")
@pytest.mark.device
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rotation", [None, 128])
@pytest.mark.parametrize("name", EXCHANGED)
def test_exchanges_on_the_device(*, name, rotation, dtype, device):
    if device != "gpu":
        pytest.skip("the kernel of this file is for GPUs")
    run(spec(EXCHANGED[name], rotation, bool(rotation)), (300, 640), dtype, interpret=False)
