"""The projection of rows on a TPU: one read of the rows, one write of the values and of the mask.

                        K values of a row
               +-------+-------+-- ... --+-------+
    R rows     |                                 |   in HBM, read once
               +- - - - - - - - - - - - - - - - -+
    a block    |       |       |         |       |   `Tile.rows` whole rows in VMEM, a step of the grid
               +-------+-------+-- ... --+-------+
    a tile     |  128  |       |         |       |   `Tile.inner` rows (a strip of the block) x 128 values
               +-------+-------+-- ... --+-------+
                   | rotated and turned: values below each other, a row in every lane (see `columns`)
                   v
    scratch    (K, `Tile.inner`) float32; group: a tile, several, or runs of rows inside of one

Tiles of a strip are worked through so that intermediate values stay in registers: all tiles of a group once for its
largest magnitude, once more for its root mean square, and once for the levels (see `rows`); each is turned back as it
is written. Rows do not meet: the grid is parallel.
"""

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
from ..rules import evaluate, length, rounding_by_sums
from ..spec import Spec
from . import columns, strip_bytes
from .rotation import RotateBy, Rotation
from .rows import Refs, Tiles, first, over_groups, row_rms, run_of
from .tiles import SPILLED, SUBLANES, VMEM, Memory, Tile, fitting_tile, memory, vmem_bytes

DTYPES = (jnp.float32, jnp.bfloat16)
MOST_AT_ONCE = 16
OPERATIONS_AT_ONCE = 400
"""Of grids, in a trip of a loop; what is longer takes long to compile, and has enough to do."""


def at_once(spec: Spec, interpret: bool) -> int:
    """Tiles in a trip of a loop: enough to be read, multiplied and turned while others are in the vector unit.

    Fewer of what takes more of the registers.
    """
    if interpret:
        return 1
    most = MOST_AT_ONCE // 2 if spec.codebook or spec.pattern else MOST_AT_ONCE
    return most if spec.grid is None else max(1, min(most, OPERATIONS_AT_ONCE // length(spec.grid.nearest)))


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
    rotate_by: RotateBy | None = None,
) -> Projected:
    """`reference.project` on a TPU.

    `tile`: in place of the default one; `rotate_by`: see `Rotation.of`. Both raise ValueError where they are bad,
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
    rotation = Rotation.of(spec.rotation, dtype, rotate_by, interpret)
    block = partial(block_of_rows, memory(tile, width, dtype))
    words = [pl.BlockSpec(memory_space=pltpu.SMEM)] if spec.codebook else []
    out = pl.pallas_call(
        partial(_forward, spec, tile, rotation, at_once(spec, interpret)),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(1)] if given_R1 is not None else []), *rotation.specs, *words],
        out_specs=[block(shape.shape[1]) for shape in shapes[: 1 + masked]],
        out_shape=shapes[: 1 + masked],
        scratch_shapes=[
            pltpu.VMEM((width, tile.inner), jnp.float32),
            pltpu.VMEM((strip_bytes.scratch_rows(mask_bytes(width)), tile.inner), jnp.int32),
            pltpu.VMEM((LANES, tile.inner), jnp.float32),
        ],
        compiler_params=compiler_params(vmem_bytes(tile, width, dtype)),
        cost_estimate=cost(rotation, 1 + spec.back, x_RK, *shapes[: 1 + masked]),
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
    rotate_by: RotateBy | None = None,
) -> Array:
    """`reference.backward` on a TPU."""
    rows, width = g_RK.shape
    if not rows or (mask_RW is None and spec.rotation is None):
        return g_RK
    tile = fitting_tile(tile, g_RK.shape, g_RK.dtype)
    rotation = Rotation.of(spec.rotation, g_RK.dtype, rotate_by, interpret)
    block = partial(block_of_rows, memory(tile, width, g_RK.dtype))
    return pl.pallas_call(
        partial(_backward, spec, tile, rotation),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(mask_RW.shape[1])] if mask_RW is not None else []), *rotation.specs],
        out_specs=block(width),
        out_shape=jax.ShapeDtypeStruct((rows, width), g_RK.dtype),
        compiler_params=compiler_params(vmem_bytes(tile, width, g_RK.dtype)),
        cost_estimate=cost(rotation, 1 + spec.back, g_RK, g_RK, *([] if mask_RW is None else [mask_RW])),
        interpret=interpret,
        name="capscale_project_backward",
    )(g_RK, *([] if mask_RW is None else [mask_RW]), *rotation.operands)


OPERATIONS = 50
"""Of the vector unit for a value, about, by the schedules: a third less for int4, three times as many for codebooks."""


def cost(rotation: Rotation, times: int, *arrays: Any) -> pl.CostEstimate:
    """Estimate for XLA's schedule: of `arrays` read and written, the first of them rotated `times` times."""
    return pl.CostEstimate(
        flops=arrays[0].size * (OPERATIONS + times * rotation.operations),
        bytes_accessed=sum(array.size * array.dtype.itemsize for array in arrays),
        transcendentals=0,
    )


def compiler_params(vmem: int) -> Any:
    """Rows are independent; compilation fails where the kernel needs more memory than was reckoned."""
    return pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=vmem + SPILLED)


def block_of_rows(memory: Memory, width: int) -> pl.BlockSpec:
    """A block of whole rows of `width` values."""
    only = {"pipeline_mode": pl.Buffered(1)} if memory.buffers == 1 else {}
    return pl.BlockSpec((memory.rows, width), lambda i: (i, 0), **only)


def _forward(spec: Spec, tile: Tile, rotation: Rotation, together: int, x_ref: Any, *refs: Any) -> None:
    *ins, full_ref, bits_ref, work_ref = refs
    given = ins.pop(0) if spec.scale is not None and spec.scale.given else None
    matrix = [ins.pop(0) for _ in rotation.specs]
    words = ins.pop(0) if spec.codebook else None
    value_ref, mask_ref = (*ins, None)[:2]

    def load(here: Any, c: Array) -> Array:
        return rotation(x_ref[here, run_of(c)], matrix, turn=True)

    ref = Refs(
        x_ref,
        given,
        load,
        full_ref,
        columns.unknown_zero(x_ref, tile.inner),
        words,
        value_ref,
        mask_ref,
        bits_ref,
        work_ref,
    )
    back = (lambda y: rotation(y, matrix)) if spec.back else None

    def strip(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)
        if ref.mask is not None:
            ref.bits[...] = jnp.zeros_like(ref.bits)
        rms = row_rms(ref, here, Tiles(0, x_ref.shape[1] // LANES, together)) if spec.reads_rms else None

        def write(tiles: list[Any], scales: list[Any]) -> None:
            written = [
                _write(spec, ref, here, c, back=back, scale=scale, rms=rms)
                for c, scale in zip(tiles, scales, strict=True)
            ]
            if ref.mask is not None:
                strip_bytes.add(ref.bits, tiles, [of for of in written if of is not None], ref.mask.shape[1])

        over_groups(spec, ref, here, together, write, loaded=rms is not None)
        if ref.mask is not None:
            strip_bytes.write(ref.bits, ref.mask, here)

    lax.fori_loop(0, tile.rows // tile.inner, strip, None)


def _write(spec: Spec, ref: Refs, here: Any, c: Any, *, back: Any, scale: Any, rms: Array | None) -> Array | None:
    """Writes the values of tile `c`, and gives the bits of its mask. `scale`, `rms`: of its groups and rows."""
    full = ref.full[run_of(c), :]
    keep, threshold = columns.survivors(spec.pattern, ref.full, first(c), ref.work) if spec.pattern else (None, None)
    scale = jax.tree.map(columns.spread, scale)
    if spec.codebook is not None:
        row = spec.codebook.dimension + 1

        def word(i: Any) -> list[Array]:
            return [ref.words[i * row + j] for j in range(row)]

        projection = columns.on_codebook(spec.codebook, word, full, scale, ref.work)
    elif spec.grid is None:
        assert keep is not None
        projection = Projection(jnp.where(keep, full, 0.0), keep=keep)
    else:
        zero = columns.spread(ref.zero)
        onto = partial(on_grid, spec.grid, per_gap=columns.per_gap_of(spec.grid), product=partial(columns.finite, zero))
        projection = rounding_by_sums(zero, onto, full, scale, keep)
    value = projection.value.T
    if value.dtype != ref.value.dtype and value.shape == full.shape:
        # By way of scratch that is done with: registers as they are loaded are rounded and written in one operation.
        ref.full[run_of(c), :] = value
        value = ref.full[run_of(c), :]
    value = value.astype(ref.value.dtype)
    ref.value[here, run_of(c)] = back(value).astype(ref.value.dtype) if back else value
    if spec.mask is None:
        return None
    measures = projection._replace(
        threshold=threshold() if threshold and spec.reads("threshold") else None,
        rms=None if rms is None else columns.spread(rms),
    )
    passes = evaluate(spec.mask, full, measures)
    bit = jnp.left_shift(1, strip_bytes.lowest_bit(c, ref.mask.shape[1], 1))
    return jnp.where(jnp.ones(full.shape, jnp.bool) if passes is None else passes, bit, 0)


def _backward(spec: Spec, tile: Tile, rotation: Rotation, g_ref: Any, *refs: Any) -> None:
    *ins, out_ref = refs
    matrix = [ins.pop() for _ in rotation.specs]
    width = g_ref.shape[1]
    tiles = width // LANES

    def step(i: Array, _: None) -> None:
        here = pl.ds(lax.div(i, tiles) * tile.inner, tile.inner)
        c = lax.rem(i, tiles)
        g = g_ref[here, run_of(c)].astype(jnp.float32)
        if spec.back:
            g = rotation(g, matrix)
        for mask_ref in ins:
            stride = mask_ref.shape[1] // LANES
            word = mask_ref[here, run_of(lax.rem(c, stride))].astype(jnp.int32)
            bit = lax.shift_right_logical(word, jnp.full(word.shape, lax.div(c, stride), jnp.int32)) & 1
            g = jnp.where(bit == 1, g, 0.0)
        out_ref[here, run_of(c)] = rotation(g, matrix).astype(out_ref.dtype)

    lax.fori_loop(0, tile.rows // tile.inner * tiles, step, None)
