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

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ...matmul.codes import Steps
from ..bitplanes import LANES
from ..gated import Gate
from ..mask import mask_bytes
from ..norm import Norm
from ..projection import Projection, with_level
from ..reference import Projected
from ..rules import evaluate, rounding_by_sums
from ..spec import Spec
from . import beside, columns, prologue, strip_bytes
from .backward import backward, backward_gated
from .backward_norm import backward_normed
from .calls import at_once, block_of_rows, compiler_params, cost
from .rotation import RotateBy, Rotation
from .rows import Refs, Tiles, first, over_groups, row_rms, run_of
from .tiles import SPILLED, SUBLANES, VMEM, Extra, Tile, fitting_tile, memory, vmem_bytes

__all__ = ["backward", "backward_gated", "backward_normed", "project", "unsupported"]

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
    rotate_by: RotateBy | None = None,
    steps: Steps | None = None,
    ahead: tuple[Norm | Gate, tuple[Array, ...]] | None = None,
) -> Projected:
    """`reference.project` on a TPU, with codes of these `steps` where they are given.

    `ahead`: what is computed of the rows before, and its operands behind `x_RK`. `tile`: in place of the default one;
    `rotate_by`: see `Rotation.of`. Both raise ValueError where they are bad, as does what is `unsupported`, here, in
    `beside` or in `prologue`.
    """
    (rows, width), dtype, masked = x_RK.shape, x_RK.dtype, spec.mask is not None
    coded, (before, others) = steps is not None, (None, ()) if ahead is None else ahead
    extra = prologue.extra_of(before, len(others), coded)
    asked = [beside.unsupported] * coded + ([] if before is None else [partial(prologue.unsupported, before)])
    for reason in (unsupported(spec, x_RK.shape, dtype), *(of(spec, width, dtype) for of in asked)):
        if reason:
            raise ValueError(f"{spec}: {reason}")
    needs = partial(vmem_bytes, extra=extra) if any(extra) else vmem_bytes
    tile = fitting_tile(tile, x_RK.shape, dtype, needs)
    of_mask = [jax.ShapeDtypeStruct((rows, mask_bytes(width)), jnp.uint8)] if masked else []
    of_codes = beside.shapes(rows, width, tile) if coded else []
    shapes = [jax.ShapeDtypeStruct((rows, width), dtype), *of_mask, *of_codes]
    if not rows:
        return _projected(masked, [x_RK, *(jnp.zeros(shape.shape, shape.dtype) for shape in shapes[1:])])
    rotation, of = Rotation.of(spec.rotation, dtype, rotate_by, interpret), memory(tile, width, dtype, extra)
    block = partial(block_of_rows, of)
    words = [pl.BlockSpec(memory_space=pltpu.SMEM)] if spec.codebook else []
    of_rows = [
        *[block(width)] * (1 + extra.rows),
        *[prologue.shared_block(width)] * extra.shared,
        *([block(1)] if given_R1 is not None else []),
    ]
    out = pl.pallas_call(
        partial(_forward, spec, tile, rotation, at_once(spec, interpret), steps=steps, ahead=before, extra=extra),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[*of_rows, *rotation.specs, *words],
        out_specs=[
            *(block(shape.shape[1]) for shape in shapes[: 1 + masked]),
            *(beside.blocks(of, width, tile) if coded else []),
        ],
        out_shape=shapes,
        scratch_shapes=[
            pltpu.VMEM((width, tile.inner), jnp.float32),
            pltpu.VMEM((strip_bytes.scratch_rows(mask_bytes(width)), tile.inner), jnp.int32),
            pltpu.VMEM((LANES, tile.inner), jnp.float32),
            *[pltpu.VMEM((tile.inner, LANES), jnp.float32)] * extra.tiles,
        ],
        compiler_params=compiler_params(needs(tile, width, dtype)),
        cost_estimate=cost(rotation, 1 + spec.back, x_RK, *others, *shapes),
        interpret=interpret,
        name=f"capscale_project{'' if before is None else f'_{before.name}'}{'_coded' * coded}",
    )(
        x_RK,
        *(each.reshape(-1, width) for each in others),
        *([] if given_R1 is None else [given_R1]),
        *rotation.operands,
        *([spec.codebook.table().reshape(-1)] if spec.codebook else []),
    )
    return _projected(masked, out)


def _projected(masked: bool, results: Sequence[Array]) -> Projected:
    """Results of the call: values, their mask and their codes, as far as there are."""
    value, *others = results
    mask = others.pop(0) if masked else None
    return Projected(value, mask, beside.multiplicand(*others) if others else None)


def _forward(
    spec: Spec,
    tile: Tile,
    rotation: Rotation,
    together: int,
    x_ref: Any,
    *refs: Any,
    steps: Steps | None,
    ahead: Norm | Gate | None,
    extra: Extra,
) -> None:
    ins = list(refs)
    kept = [ins.pop() for _ in range(extra.tiles)]
    *ins, full_ref, bits_ref, work_ref = ins
    others = [ins.pop(0) for _ in range(extra.rows + extra.shared)]
    given = ins.pop(0) if spec.scale is not None and spec.scale.given else None
    matrix = [ins.pop(0) for _ in rotation.specs]
    words = ins.pop(0) if spec.codebook else None
    value_ref = ins.pop(0)
    mask_ref = ins.pop(0) if spec.mask is not None else None
    codes_ref, scales_ref = ins if steps is not None else (None, None)

    rows = prologue.reader(ahead, x_ref, others, kept)

    def load(here: Any, c: Array) -> Array:
        return rotation(rows.tile(here, c), matrix, turn=True)

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
        codes_ref,
    )
    back = (lambda y: rotation(y, matrix)) if spec.back else None

    def strip(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)
        if ref.mask is not None:
            ref.bits[...] = jnp.zeros_like(ref.bits)
        every = Tiles(0, x_ref.shape[1] // LANES, together)
        rows.measure(here, every)
        rms = row_rms(ref, here, every) if spec.reads_rms else None

        def write(tiles: list[Any], scales: list[Any]) -> None:
            written = [
                _write(spec, ref, here, c, back=back, scale=scale, rms=rms, steps=steps)
                for c, scale in zip(tiles, scales, strict=True)
            ]
            if ref.mask is not None:
                strip_bytes.add(ref.bits, tiles, [of for of in written if of is not None], ref.mask.shape[1])

        def measured(g: Any, scale: Any) -> None:
            if scales_ref is not None:
                beside.keep_scale(scales_ref, i, scale)

        over_groups(spec, ref, here, together, write, measured=measured, loaded=rms is not None)
        if ref.mask is not None:
            strip_bytes.write(ref.bits, ref.mask, here)

    lax.fori_loop(0, tile.rows // tile.inner, strip, None)


def _write(
    spec: Spec, ref: Refs, here: Any, c: Any, *, back: Any, scale: Any, rms: Array | None, steps: Steps | None
) -> Array | None:
    """Writes the values of tile `c`, and codes in these `steps`, and gives the bits of its mask.

    `scale`, `rms`: of its groups and rows.
    """
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
        how = {"per_gap": columns.per_gap_of(spec.grid), "product": partial(columns.finite, zero)}
        projection, level = rounding_by_sums(zero, partial(with_level, spec.grid, **how), full, scale, keep)
        if steps is not None:
            ref.codes[here, run_of(c)] = beside.code(zero, level, steps)
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
