"""The projection of rows on a TPU: one read of the rows, one write of the values and of the mask.

                        K values of a row
               +-------+-------+-- ... --+-------+
    R rows     |                                 |   in HBM, read once
               +- - - - - - - - - - - - - - - - -+
    a block    |       |       |         |       |   `Tile.rows` whole rows in VMEM, a step of the grid
               +-------+-------+-- ... --+-------+
    a tile     |  128  |       |         |       |   `Tile.inner` rows x 128 lanes: vector registers
               +-------+-------+-- ... --+-------+
                 group: a tile, several, or runs of lanes inside of one

Tiles of a block are worked through so that intermediate values stay in registers: all tiles of a group once for its
largest magnitude, once more for its root mean square, and once for the levels (see `rows`). Rows do not meet: the grid
is parallel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ..bitplanes import LANES
from ..mask import mask_bytes
from ..projection import Projection, on_grid
from ..reference import Projected
from ..rules import evaluate
from ..spec import Spec
from . import lanes
from .rows import Refs, column, measure_scale, row_rms
from .tiles import SPILLED, SUBLANES, VMEM, Tile, fitting_tile, vmem_bytes

DTYPES = (jnp.float32, jnp.bfloat16)


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot project rows of this shape, or None where it can."""
    width = shape[1]
    sizes = {"rotation": spec.rotation, "group": spec.group}
    if spec.pattern:
        sizes |= {"m": spec.pattern.m, "unit": spec.pattern.unit}
    if spec.codebook:
        sizes |= {"dimension": spec.codebook.dimension}
    if dtype not in DTYPES:
        return f"it takes float32 and bfloat16, not {jnp.dtype(dtype)}"
    if not width or width % LANES:
        return f"rows of {width} values are not whole multiples of {LANES} lanes"
    try:
        spec.check(width)
    except ValueError as error:
        return str(error)
    for name, size in sizes.items():
        whole = name == "group" and size and size % LANES == 0
        if size and not whole and (size > LANES or size & (size - 1)):
            return f"{name}={size} is not a power of two up to {LANES}"
    if vmem_bytes(Tile(SUBLANES, SUBLANES), width, dtype) + SPILLED > VMEM:
        return f"{SUBLANES} rows of {width} values do not fit into {VMEM >> 20} MiB"
    return None


def project(
    spec: Spec,
    x_RK: Array,
    given_R1: Array | None = None,
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: lanes.RotateBy | None = None,
) -> Projected:
    """`reference.project` on a TPU.

    `tile`: in place of the default one; `rotate_by`: see `lanes.Rotation.of`. Both raise ValueError where they are bad,
    as does what is `unsupported`.
    """
    if reason := unsupported(spec, x_RK.shape, x_RK.dtype):
        raise ValueError(f"{spec}: {reason}")
    (rows, width), dtype = x_RK.shape, x_RK.dtype
    masked = spec.mask is not None
    shapes = [jax.ShapeDtypeStruct((rows, width), dtype), jax.ShapeDtypeStruct((rows, mask_bytes(width)), jnp.uint8)]
    if not rows:
        return Projected(x_RK, jnp.zeros(shapes[1].shape, jnp.uint8) if masked else None)
    tile = fitting_tile(tile, x_RK.shape, dtype)
    rotation = lanes.Rotation.of(spec.rotation, dtype, rotate_by, interpret)
    block = partial(block_of_rows, tile)
    words = [pl.BlockSpec(memory_space=pltpu.SMEM)] if spec.codebook else []
    out = pl.pallas_call(
        partial(_forward, spec, tile, rotation),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(1)] if given_R1 is not None else []), *rotation.specs, *words],
        out_specs=[block(shape.shape[1]) for shape in shapes[: 1 + masked]],
        out_shape=shapes[: 1 + masked],
        scratch_shapes=[
            pltpu.VMEM((tile.inner, width), jnp.float32),
            pltpu.VMEM((tile.inner, mask_bytes(width)), jnp.int32),
        ],
        compiler_params=compiler_params(vmem_bytes(tile, width, dtype)),
        interpret=interpret,
        name="capscale_project",
    )(
        x_RK,
        *([] if given_R1 is None else [given_R1]),
        *rotation.operands,
        *([spec.codebook.table().reshape(-1)] if spec.codebook else []),
    )
    return Projected(out[0], out[1] if masked else None)


def backward(
    spec: Spec,
    mask_RW: Array | None,
    g_RK: Array,
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: lanes.RotateBy | None = None,
) -> Array:
    """`reference.backward` on a TPU."""
    rows, width = g_RK.shape
    if not rows or (mask_RW is None and spec.rotation is None):
        return g_RK
    tile = fitting_tile(tile, g_RK.shape, g_RK.dtype)
    rotation = lanes.Rotation.of(spec.rotation, g_RK.dtype, rotate_by, interpret)
    block = partial(block_of_rows, tile)
    return pl.pallas_call(
        partial(_backward, spec, tile, rotation),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(mask_RW.shape[1])] if mask_RW is not None else []), *rotation.specs],
        out_specs=block(width),
        out_shape=jax.ShapeDtypeStruct((rows, width), g_RK.dtype),
        compiler_params=compiler_params(vmem_bytes(tile, width, g_RK.dtype)),
        interpret=interpret,
        name="capscale_project_backward",
    )(g_RK, *([] if mask_RW is None else [mask_RW]), *rotation.operands)


def compiler_params(vmem: int) -> Any:
    """Rows are independent; compilation fails where the kernel needs more memory than was reckoned."""
    return pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=vmem + SPILLED)


def block_of_rows(tile: Tile, width: int) -> pl.BlockSpec:
    """A block of whole rows of `width` values."""
    return pl.BlockSpec((tile.rows, width), lambda i: (i, 0))


def _forward(spec: Spec, tile: Tile, rotation: lanes.Rotation, x_ref: Any, *refs: Any) -> None:
    *ins, full_ref, bits_ref = refs
    given = ins.pop(0) if spec.scale is not None and spec.scale.given else None
    matrix = [ins.pop(0) for _ in rotation.specs]
    words = ins.pop(0) if spec.codebook else None
    value_ref, mask_ref = (*ins, None)[:2]
    ref = Refs(x_ref, given, lambda y: rotation(y, matrix), full_ref, words, value_ref, mask_ref, bits_ref)
    size = spec.group or x_ref.shape[1]
    tiles = max(size // LANES, 1)  # of a group

    def inner(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)
        if ref.mask is not None:
            ref.bits[...] = jnp.zeros_like(ref.bits)
        rms = row_rms(ref, here) if spec.reads_rms else None

        def group(g: Array, _: None) -> None:
            def each(step: Callable[[Array, Any], Any], start: Any) -> Any:
                return step(g, start) if tiles == 1 else lax.fori_loop(g * tiles, (g + 1) * tiles, step, start)

            scale = measure_scale(spec, ref, here, size, each, loaded=rms is not None)
            each(lambda c, _: _write(spec, ref, here, c, scale=scale, rms=rms), None)

        lax.fori_loop(0, x_ref.shape[1] // (LANES * tiles), group, None)
        if ref.mask is not None:
            ref.mask[here, :] = ref.bits[...].astype(jnp.uint8)

    lax.fori_loop(0, tile.rows // tile.inner, inner, None)


def _write(spec: Spec, ref: Refs, here: Any, c: Array, *, scale: Array | None, rms: Array | None) -> None:
    """Values and mask bits of tile `c`. `scale`, `rms`: of its groups and rows, in all of their lanes."""
    full = ref.full[:, column(c)]
    keep, threshold = lanes.survivors(spec.pattern, full) if spec.pattern else (None, None)
    if spec.codebook is not None:
        assert scale is not None
        row = spec.codebook.dimension + 1
        projection = lanes.on_codebook(
            spec.codebook, lambda i: [ref.words[i * row + j] for j in range(row)], full, scale
        )
    elif spec.grid is None:
        assert keep is not None
        projection = Projection(jnp.where(keep, full, 0.0), keep=keep)
    else:
        assert scale is not None
        projection = on_grid(spec.grid, full, scale, keep)
    if ref.mask is not None and spec.mask is not None:
        passes = evaluate(spec.mask, full, projection._replace(threshold=threshold, rms=rms))
        passes = jnp.ones(full.shape, jnp.bool) if passes is None else passes
        stride = ref.bits.shape[1] // LANES
        bit = lax.shift_left(passes.astype(jnp.int32), jnp.full(full.shape, lax.div(c, stride), jnp.int32))
        word = column(lax.rem(c, stride))
        ref.bits[:, word] = ref.bits[:, word] | bit
    value = projection.value.astype(ref.value.dtype)
    if spec.back:
        value = ref.rotate(value.astype(jnp.float32)).astype(ref.value.dtype)
    ref.value[here, column(c)] = value


def _backward(spec: Spec, tile: Tile, rotation: lanes.Rotation, g_ref: Any, *refs: Any) -> None:
    *ins, out_ref = refs
    matrix = [ins.pop() for _ in rotation.specs]
    width = g_ref.shape[1]
    tiles = width // LANES

    def step(i: Array, _: None) -> None:
        here = pl.ds(lax.div(i, tiles) * tile.inner, tile.inner)
        c = lax.rem(i, tiles)
        g = g_ref[here, column(c)].astype(jnp.float32)
        if spec.back:
            g = rotation(g, matrix)
        for mask_ref in ins:
            stride = mask_ref.shape[1] // LANES
            word = mask_ref[here, column(lax.rem(c, stride))].astype(jnp.int32)
            bit = lax.shift_right_logical(word, jnp.full(word.shape, lax.div(c, stride), jnp.int32)) & 1
            g = jnp.where(bit == 1, g, 0.0)
        out_ref[here, column(c)] = rotation(g, matrix).astype(out_ref.dtype)

    lax.fori_loop(0, tile.rows // tile.inner * tiles, step, None)
