"""The codes and scales of rows on a TPU: one read of the rows, one write of the bytes.

    x       (R, K) --> block (`Tile.rows`, K) in VMEM --> tile (128, `Tile.inner`) in registers, turned as in `project`
                                                             | code of every value, int32
    codes   (R, W) <-- words (W, `Tile.inner`) <-- tile c shifted by `bits * (c // (W / 128))` into word `c % (W / 128)`
    scales  (R, S) <-- scales (S, `Tile.inner`) <-- the scale of group g into row g

W are bytes of a row (`bitplanes`), S its groups, rounded up to whole registers. Blocks and tiles are those of
`project`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ..bitplanes import LANES, plane_bytes
from ..codes import Encoded, code_bits, code_of, coded_grid, encoded_spec, group_count
from ..rules import rounding_by_sums
from ..spec import Spec
from . import columns, strip_bytes
from . import project as tpu
from .calls import block_of_rows, compiler_params, cost
from .rotation import RotateBy, Rotation
from .rows import Refs, over_groups, run_of
from .tiles import SPILLED, SUBLANES, VMEM, Memory, Tile, encode_memory, fitting_tile


def unsupported(spec: Spec, shape: tuple[int, ...], dtype: DTypeLike) -> str | None:
    """Why this kernel cannot encode rows of this shape, or None where it can."""
    reason = tpu.unsupported(spec, shape, dtype)
    if reason is None and needs(spec, Tile(SUBLANES, SUBLANES), shape[1], dtype) + SPILLED > VMEM:
        return f"{SUBLANES} rows of {shape[1]} values and their codes do not fit into {VMEM >> 20} MiB"
    return reason


def encode(
    spec: Spec,
    x_RK: Array,
    given_R1: Array | None = None,
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: RotateBy | None = None,
) -> Encoded:
    """`reference.encode` on a TPU. `tile` and `rotate_by`: see `tpu.project`."""
    if reason := unsupported(spec, x_RK.shape, x_RK.dtype):
        raise ValueError(f"{spec}: {reason}")
    (rows, width), dtype, grid, spec = x_RK.shape, x_RK.dtype, coded_grid(spec), encoded_spec(spec)
    codes, groups = plane_bytes(width, code_bits(grid)), group_count(spec, width)
    if not rows:
        return Encoded(jnp.zeros((0, codes), jnp.uint8), jnp.zeros((0, groups), jnp.float32))
    tile = fitting_tile(tile, x_RK.shape, dtype, partial(needs, spec))
    rotation = Rotation.of(spec.rotation, dtype, rotate_by, interpret)
    block = partial(block_of_rows, _memory(spec, tile, width, dtype))
    scales = _scale_lanes(spec, width)
    results = [
        jax.ShapeDtypeStruct((rows, codes), jnp.uint8),
        jax.ShapeDtypeStruct((rows, scales), jnp.float32),
    ]
    words, scale = pl.pallas_call(
        partial(_encode, spec, tile, rotation, tpu.at_once(spec, interpret)),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(1)] if given_R1 is not None else []), *rotation.specs],
        out_specs=[block(codes), block(scales)],
        out_shape=results,
        scratch_shapes=[
            pltpu.VMEM((width, tile.inner), jnp.float32),
            pltpu.VMEM((strip_bytes.scratch_rows(codes), tile.inner), jnp.int32),
            pltpu.VMEM((scales, tile.inner), jnp.float32),
        ],
        compiler_params=compiler_params(needs(spec, tile, width, dtype)),
        cost_estimate=cost(rotation, 1, x_RK, *results),
        interpret=interpret,
        name="capscale_encode",
    )(x_RK, *([] if given_R1 is None else [given_R1]), *rotation.operands)
    return Encoded(words, scale[:, :groups])


def _scale_lanes(spec: Spec, width: int) -> int:
    """Lanes that the scales of a row take."""
    return LANES * pl.cdiv(group_count(spec, width), LANES)


def needs(spec: Spec, tile: Tile, width: int, dtype: DTypeLike) -> int:
    """VMEM of this kernel."""
    return _memory(spec, tile, width, dtype).total


def _memory(spec: Spec, tile: Tile, width: int, dtype: DTypeLike) -> Memory:
    return encode_memory(tile, width, dtype, code_bits(coded_grid(spec)), _scale_lanes(spec, width))


def _encode(spec: Spec, tile: Tile, rotation: Rotation, together: int, x_ref: Any, *refs: Any) -> None:
    *ins, words_ref, scales_ref, full_ref, turned_words_ref, turned_scales_ref = refs
    given = ins.pop(0) if spec.scale is not None and spec.scale.given else None
    ref = Refs(
        x_ref,
        given,
        load=lambda here, c: rotation(x_ref[here, run_of(c)], ins, turn=True),
        full=full_ref,
        zero=columns.unknown_zero(x_ref, tile.inner),
    )
    grid = coded_grid(spec)
    size, bits, count = spec.group or x_ref.shape[1], code_bits(grid), words_ref.shape[1]
    groups = max(LANES // size, 1)  # of a tile

    def strip(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)
        turned_words_ref[...] = jnp.zeros_like(turned_words_ref)

        def keep_scale(g: Any, scale: Array) -> None:
            for place in range(groups):
                run, sublane = divmod(place * size, columns.SUBLANES) if size < columns.SUBLANES else (place, 0)
                turned_scales_ref[pl.ds(g * groups + place, 1), :] = scale[run, sublane : sublane + 1, :]

        def moved_code(c: Any, scale: Array) -> Array:
            full = ref.full[run_of(c), :]
            code = rounding_by_sums(columns.spread(ref.zero), partial(code_of, grid), full, columns.spread(scale))
            return lax.shift_left(code, jnp.full(code.shape, strip_bytes.lowest_bit(c, count, bits), jnp.int32))

        def write(tiles: list[Any], scales: list[Any]) -> None:
            codes = [moved_code(c, scale) for c, scale in zip(tiles, scales, strict=True)]
            strip_bytes.add(turned_words_ref, tiles, codes, count)

        over_groups(spec, ref, here, together, write, measured=keep_scale)
        strip_bytes.write(turned_words_ref, words_ref, here)
        for begin in range(0, scales_ref.shape[1], LANES):
            scales_ref[here, begin : begin + LANES] = turned_scales_ref[begin : begin + LANES, :].T

    lax.fori_loop(0, tile.rows // tile.inner, strip, None)
