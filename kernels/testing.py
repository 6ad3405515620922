"""Conformance kit: holds the kernels of any projection, yours too, to the reference, and to the chips they are for.

    spec = Spec(MyGrid(), RmsTimes(0.3), rotation=128, back=True)
    for name, check in checks().items():
        check(spec)

`capscale.kernel_checks.check_kernels` does so for a format, and holds the reference to the format. A check raises
AssertionError where a kernel is wrong, `Unavailable` where this machine cannot tell, with the reason. None needs an
accelerator: kernels are interpreted on the host, TPU code is compiled by libtpu, GPU code is lowered.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from .aot import CHIPS, Unavailable, compile_for_tpu, lower_for_hopper, tpu_devices
from .compare import close, close_codes, equal, same, same_codes, same_multiplicands, tolerance
from .hadamard import rotate
from .jit_inline import jit_inline
from .matmul.codes import Steps, steps_of
from .project import op, reference
from .project.codes import coded_grid, decode, multiplicand
from .project.mask import mask_bytes
from .project.spec import Spec
from .project.tpu import beside
from .project.tpu import encode as tpu_codes
from .project.tpu import project as tpu
from .project.tpu.tiles import SPILLED, VMEM, Tile, default_tile, vmem_bytes

Shape = tuple[int, int]
Check = Callable[..., None]

POD = ("v5e:4x4", {"data": 4, "fsdp": 4})
"""A slice of 16 chips, and its mesh."""
WIDTHS = (
    *(128, 256, 384, 512),  # micro
    *(640, 768, 1024, 1280, 1664, 1792, 2048, 2816, 3584, 4608, 5632),  # paper, and its feed-forward layers
    *(1536, 2688, 3072, 4224, 5376, 6912, 8448),  # those of OLMo2
)
"""Widths of the ladders' projected matrices that fill whole registers of 128 lanes; XLA projects the others."""


def checks() -> dict[str, Check]:
    """Every check by name: a function of a `Spec`."""
    named: dict[str, Check] = {
        "interpret-float32": partial(check_interpreted, dtype=jnp.float32, shapes=((37, 1792), (0, 640))),
        "interpret-bfloat16": partial(check_interpreted, dtype=jnp.bfloat16, shapes=((37, 640), (1, 128))),
        "interpret-gradient-float32": partial(check_gradient, dtype=jnp.float32),
        "interpret-gradient-bfloat16": partial(check_gradient, dtype=jnp.bfloat16),
        "interpret-matrix-unit": check_matrix_unit,
        "interpret-codes": check_codes,
        "interpret-gpu": check_gpu_interpreted,
    }
    named |= {f"tpu-{chip}": partial(check_tpu, chip=chip) for chip in CHIPS}
    named |= {f"tpu-{chip}-codes": partial(check_codes_on_tpu, chip=chip) for chip in CHIPS}
    named |= {"tpu-v5e-4x4-shard_map": check_pod, "cuda-sm90": check_cuda}
    return {name: partial(_of_spec, check) for name, check in named.items()}


def _of_spec(check: Check, spec: Spec) -> None:
    """`check`, unless it is not a `Spec` that is to be checked."""
    if not isinstance(spec, Spec):
        raise TypeError(f"{spec!r} is no Spec; hold the kernels of a format to it by capscale.kernel_checks")
    check(spec)


@jit_inline(0, 1, 2)
def rows(shape: Shape, dtype: DTypeLike, seed: int = 0) -> Array:
    """Normal rows; of five or more, one each of zeros, with a NaN, with an infinity, of large values, full of ties."""
    x = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    if shape[0] >= 5:
        x = x.at[0].set(0.0).at[1, 3].set(jnp.nan).at[2, 5].set(-jnp.inf)
        x = x.at[3].multiply(1e30).at[4].set(jnp.round(2 * x[4]))
    return x.astype(dtype)


def check_interpreted(
    spec: Spec, dtype: DTypeLike = jnp.float32, shapes: tuple[Shape, ...] = ((37, 640), (5, 1792), (1, 128), (0, 640))
) -> None:
    """The interpreted TPU kernel gives the reference's values and masks, bit for bit.

    On several blocks with a ragged tail, masks of several registers, one row, none, zeros, NaN and infinity. Widths are
    rounded up to whole groups.
    """
    for shape in _whole(spec, shapes):
        _skip_unsupported(tpu.unsupported(spec, shape, dtype))
        x, given = rows(shape, dtype), _given(spec, shape[0])
        project = partial(tpu.project, spec, tile=Tile(32, 32), interpret=True)
        same(jax.jit(project)(x, given), reference.project(spec, x, given), shape[1], None if spec.rotation else x)


def check_gradient(spec: Spec, dtype: DTypeLike = jnp.float32, shape: Shape = (4, 1792)) -> None:
    """The gradient of the operation is the reference's, of the reference's mask."""
    (shape,) = _whole(spec, (shape,))
    _skip_unsupported(tpu.unsupported(spec, shape, dtype))
    x, given, cotangent = rows(shape, dtype), _given(spec, shape[0]), rows(shape, dtype, seed=1)

    def pulled(x: Array, given: Array | None, cotangent: Array) -> Array:
        return jax.vjp(lambda x: op.project(spec, x, given, op.BackendChoice("tpu", interpret=True)), x)[1](cotangent)[
            0
        ]

    expected = reference.backward(spec, reference.project(spec, x, given).mask_RW, cotangent)
    equal(jax.jit(pulled)(x, given, cotangent), expected, "gradient")


def check_matrix_unit(spec: Spec, shape: Shape = (4, 256)) -> None:
    """The rotation as compiled TPU kernels do it, as a product, is within `tolerance` of the additions; codes too."""
    if spec.rotation is None:
        raise Unavailable("nothing is rotated")
    one_way = replace(spec, back=False)
    for dtype in (jnp.float32, jnp.bfloat16):
        _skip_unsupported(tpu.unsupported(spec, shape, dtype))
        x, given = rows(shape, dtype), _given(spec, shape[0])
        by_product: dict[str, Any] = {"interpret": True, "rotate_by": "product"}
        found = jax.jit(partial(tpu.project, one_way, **by_product))(x, given)
        close(found, reference.project(one_way, x, given), shape[1], tolerance(dtype, exact_rotation=False))
        if not _uncoded(spec):
            encoded = jax.jit(partial(tpu_codes.encode, spec, **by_product))(x, given)
            close_codes(spec, encoded, reference.encode(spec, x, given), shape[1], tolerance(dtype, False))


def check_codes(spec: Spec, shape: Shape = (37, 640)) -> None:
    """The interpreted TPU kernel gives the reference's codes and scales, and they decode to what `project` gives.

    Bit for bit, in float32 and in bfloat16, and NaN all over a group that holds one. So do the codes that the
    projection writes beside its values, where it does. `Unavailable` where the grid has no codes.
    """
    _skip_unsupported(_uncoded(spec))
    (shape,) = _whole(spec, (shape,))
    for dtype in (jnp.float32, jnp.bfloat16):
        _skip_unsupported(tpu_codes.unsupported(spec, shape, dtype))
        x, given = rows(shape, dtype), _given(spec, shape[0])
        expected = reference.encode(spec, x, given)
        found = jax.jit(partial(tpu_codes.encode, spec, tile=Tile(32, 32), interpret=True))(x, given)
        same_codes(found, expected)
        one_way, steps = replace(spec, back=False), _steps_beside(spec, shape[1], dtype)
        projected = reference.project(one_way, x, given)
        if steps is not None:
            both = jax.jit(partial(tpu.project, one_way, tile=Tile(32, 32), interpret=True, steps=steps))(x)
            same(both, projected, shape[1])
            same_multiplicands(cast(Any, both.codes), multiplicand(spec, expected, shape[1], steps, "int8"))
        value = projected.value_RK
        marked = jnp.repeat(jnp.isnan(expected.scales), shape[1] // expected.scales.shape[1], axis=1)
        value = jnp.where(marked, jnp.full_like(value, jnp.nan), value)
        if spec.rotation and spec.back:
            value = rotate(value, spec.rotation)
        equal(decode(spec, found, shape[1], dtype), value, "decoded value")


def check_codes_on_tpu(spec: Spec, chip: str = "v5e", shape: Shape = (1000, 640)) -> None:
    """The encoding kernel compiles for a TPU, within the VMEM that it asks for; and codes beside values."""
    _skip_unsupported(_uncoded(spec))
    (shape,) = _whole(spec, (shape,))
    for dtype in (jnp.float32, jnp.bfloat16):
        _skip_unsupported(tpu_codes.unsupported(spec, shape, dtype))
        x, _, given = _structs(spec, shape, dtype)
        compile_for_tpu(chip, partial(tpu_codes.encode, spec), x, given)
        if (steps := _steps_beside(spec, shape[1], dtype)) is not None:
            compile_for_tpu(chip, partial(tpu.project, replace(spec, back=False), steps=steps), x)


def check_tpu(spec: Spec, chip: str = "v5e", shapes: tuple[Shape, ...] = ((1000, 640), (1, 5632))) -> None:
    """Forward and backward compile for a TPU, within the VMEM that the kernel asks for, and that within the chip's."""
    for shape in _whole(spec, shapes):
        for dtype in (jnp.float32, jnp.bfloat16):
            _skip_unsupported(tpu.unsupported(spec, shape, dtype))
            assert vmem_bytes(default_tile(shape, dtype), shape[1], dtype) + SPILLED <= VMEM
            x, mask, given = _structs(spec, shape, dtype)
            compile_for_tpu(chip, partial(tpu.project, spec), x, given)
            compile_for_tpu(chip, partial(tpu.backward, spec), mask, x)


def check_pod(spec: Spec, shape: Shape = (4096, 640), dtype: DTypeLike = jnp.bfloat16) -> None:
    """The operation and its gradient compile for 16 chips, rows split over the context mesh, and inside `shard_map`."""
    topology, sides = POD
    (shape,) = _whole(spec, (shape,))
    axes = (AxisType.Auto,) * len(sides)
    mesh = jax.make_mesh(tuple(sides.values()), tuple(sides), axis_types=axes, devices=tpu_devices(topology))
    split = PartitionSpec(("data", "fsdp"))
    _skip_unsupported(tpu.unsupported(spec, shape, dtype))
    x, _, given = _structs(spec, shape, dtype)

    def both(x: Array, given: Array | None) -> Any:
        value, pull = jax.vjp(lambda x: op.project(spec, x, given, op.BackendChoice("tpu")), x)
        return value, pull(value)

    own = jax.shard_map(both, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    for function in (both, own):
        with jax.set_mesh(mesh):
            text = jax.jit(function, in_shardings=NamedSharding(mesh, split)).lower(x, given).compile().as_text()
        assert text is not None
        assert "capscale_project" in text, "no kernel in the compiled program"


def check_cuda(spec: Spec, shape: Shape = (1000, 640)) -> None:
    """Forward, backward and, where there are codes, encoding lower for Hopper."""
    gpu, gpu_codes = _gpu()
    (shape,) = _whole(spec, (shape,))
    for dtype in (jnp.float32, jnp.bfloat16):
        _skip_unsupported(gpu.unsupported(spec, shape, dtype))
        x, mask, given = _structs(spec, shape, dtype)
        calls = [(gpu.project, (x, given)), (gpu.backward, (mask, x))]
        for function, operands in calls + ([] if _uncoded(spec) else [(gpu_codes.encode, (x, given))]):
            text = lower_for_hopper(partial(function, spec), *operands)
            by_xla = function is gpu.backward and spec.rotation is None  # a choice by the mask alone needs no kernel
            assert by_xla or "mosaic_gpu" in text, "no kernel in the lowered program"


def check_gpu_interpreted(spec: Spec, dtype: DTypeLike = jnp.float32, width: int = 128) -> None:
    """The interpreted GPU kernels give the reference's values, masks, codes and scales: bit for bit where nothing is
    rotated, zeros, NaN and infinity included; else within `tolerance`, on finite rows.
    """
    (gpu, gpu_codes), exact = _gpu(), spec.rotation is None
    allowed = tolerance(dtype, exact)
    (shape,) = _whole(spec, ((5 if exact else 4, width),))
    _skip_unsupported(gpu.unsupported(spec, shape, dtype))
    if jax.__version_info__ < (0, 12) and gpu.whole_interleave(spec, shape[1]).interleaved:
        raise Unavailable("jax below 0.12 interprets no transposed wgmma")
    x, given = rows(shape, dtype), _given(spec, shape[0])
    found, expected = gpu.project(spec, x, given, interpret=True), reference.project(spec, x, given)
    if exact:
        same(found, expected, shape[1], x)
    else:
        close(found, expected, shape[1], allowed)
    if not _uncoded(spec):
        encoded, wanted = gpu_codes.encode(spec, x, given, interpret=True), reference.encode(spec, x, given)
        if exact:
            same_codes(encoded, wanted)
        else:
            close_codes(spec, encoded, wanted, shape[1], allowed)


def _gpu() -> tuple[Any, Any]:
    try:
        from .project.gpu import encode as gpu_codes
        from .project.gpu import project as gpu
    except ImportError as error:
        raise Unavailable(f"this jaxlib has no Mosaic GPU: {error}") from error
    return gpu, gpu_codes


def whole(spec: Spec, width: int) -> int:
    """`width`, rounded up to whole groups."""
    group = spec.group or 1
    return -(-width // group) * group


def _whole(spec: Spec, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Shapes of whole groups."""
    return tuple((count, whole(spec, width)) for count, width in shapes)


def _given(spec: Spec, count: int) -> Array | None:
    """A plausible number for every row."""
    needed = spec.scale is not None and spec.scale.given
    return jnp.linspace(0.25, 0.5, count).reshape(count, 1) if needed else None


def _structs(spec: Spec, shape: Shape, dtype: DTypeLike) -> tuple[Any, Any, Any]:
    """Shapes of rows, mask and given numbers."""
    needed = spec.scale is not None and spec.scale.given
    mask = jax.ShapeDtypeStruct((shape[0], mask_bytes(shape[1])), jnp.uint8) if spec.mask else None
    given = jax.ShapeDtypeStruct((shape[0], 1), jnp.float32) if needed else None
    return jax.ShapeDtypeStruct(shape, dtype), mask, given


def _uncoded(spec: Spec) -> str | None:
    """Why the projection has no codes, or None where it has."""
    try:
        coded_grid(spec)
    except ValueError as error:
        return str(error)
    return None


def _steps_beside(spec: Spec, width: int, dtype: DTypeLike) -> Steps | None:
    """Steps of the codes that the projection writes beside its values; None where it writes none."""
    refused = beside.unsupported(replace(spec, back=False), width, dtype)
    return steps_of(coded_grid(spec).levels) if refused is None else None


def _skip_unsupported(reason: str | None) -> None:
    if reason is not None:
        raise Unavailable(reason)
