"""The codes and scales of rows on a TPU: one read of the rows, one write of the bytes.

    x       (R, K) --> block (`Tile.rows`, K) in VMEM --> tile (`Tile.inner`, 128) in registers
                                                             | code of every lane, int32
    codes   (R, W) <-- words (`Tile.inner`, W) <-- tile c shifted by `bits * (c // (W / 128))` into word `c % (W / 128)`
    scales  (R, S) <-- the scale, in all lanes of its group, into lane `l + c % run` of register `c // run`

W are bytes of a row (`bitplanes`), S the lanes that its scales take, `run` the lanes of a group, l where it starts in
tile c. Blocks and tiles are those of `project`. A scale is written where it stands, to a register that other tiles
fill up; XLA puts them in order, a small part of the bytes.
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

from ..bitplanes import LANES, plane_bytes
from ..codes import CodedGrid, Encoded, code_bits, code_of, coded_grid, encoded_spec, group_count
from ..spec import Spec
from . import lanes
from . import project as tpu
from .rows import Refs, column, measure_scale
from .tiles import SPILLED, SUBLANES, VMEM, Tile, encode_vmem_bytes, fitting_tile


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
    rotate_by: lanes.RotateBy | None = None,
) -> Encoded:
    """`reference.encode` on a TPU. `tile` and `rotate_by`: see `tpu.project`."""
    if reason := unsupported(spec, x_RK.shape, x_RK.dtype):
        raise ValueError(f"{spec}: {reason}")
    (rows, width), dtype, grid, spec = x_RK.shape, x_RK.dtype, coded_grid(spec), encoded_spec(spec)
    codes, groups = plane_bytes(width, code_bits(grid)), group_count(spec, width)
    if not rows:
        return Encoded(jnp.zeros((0, codes), jnp.uint8), jnp.zeros((0, groups), jnp.float32))
    tile = fitting_tile(tile, x_RK.shape, dtype, partial(needs, spec))
    rotation = lanes.Rotation.of(spec.rotation, dtype, rotate_by, interpret)
    block = partial(tpu.block_of_rows, tile)
    scales = _scale_lanes(spec, width)
    words, scale = pl.pallas_call(
        partial(_encode, spec, grid, tile, rotation),
        grid=(pl.cdiv(rows, tile.rows),),
        in_specs=[block(width), *([block(1)] if given_R1 is not None else []), *rotation.specs],
        out_specs=[block(codes), block(scales)],
        out_shape=[
            jax.ShapeDtypeStruct((rows, codes), jnp.uint8),
            jax.ShapeDtypeStruct((rows, scales), jnp.float32),
        ],
        scratch_shapes=[pltpu.VMEM((tile.inner, width), jnp.float32), pltpu.VMEM((tile.inner, codes), jnp.int32)],
        compiler_params=tpu.compiler_params(needs(spec, tile, width, dtype)),
        interpret=interpret,
        name="capscale_encode",
    )(x_RK, *([] if given_R1 is None else [given_R1]), *rotation.operands)
    run = min(spec.group or width, LANES)
    ordered = jnp.swapaxes(scale.reshape(rows, scales // LANES, LANES // run, run), 2, 3).reshape(rows, scales)
    return Encoded(words, ordered[:, :groups])


def _scale_lanes(spec: Spec, width: int) -> int:
    """Lanes that the scales of a row take as the kernel writes them."""
    group = spec.group or width
    return LANES * pl.cdiv(width // max(group, LANES), min(group, LANES))


def needs(spec: Spec, tile: Tile, width: int, dtype: DTypeLike) -> int:
    """VMEM of this kernel."""
    return encode_vmem_bytes(tile, width, dtype, code_bits(coded_grid(spec)), _scale_lanes(spec, width))


def _encode(spec: Spec, grid: CodedGrid, tile: Tile, rotation: lanes.Rotation, x_ref: Any, *refs: Any) -> None:
    *ins, words_ref, scales_ref, full_ref, codes_ref = refs
    given = ins.pop(0) if spec.scale is not None and spec.scale.given else None
    ref = Refs(x_ref, given, lambda y: rotation(y, ins), full_ref)
    size = spec.group or x_ref.shape[1]
    tiles, run = max(size // LANES, 1), min(size, LANES)
    bits, stride = code_bits(grid), codes_ref.shape[1] // LANES

    def inner(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)
        codes_ref[...] = jnp.zeros_like(codes_ref)

        def group(g: Array, _: None) -> None:
            def each(step: Callable[[Array, Any], Any], start: Any) -> Any:
                return step(g, start) if tiles == 1 else lax.fori_loop(g * tiles, (g + 1) * tiles, step, start)

            scale = measure_scale(spec, ref, here, size, each)
            assert scale is not None

            def write(c: Array, _: None) -> None:
                code = code_of(grid, full_ref[:, column(c)], scale)
                shift = jnp.full(code.shape, bits * lax.div(c, stride), jnp.int32)
                word = column(lax.rem(c, stride))
                codes_ref[:, word] = codes_ref[:, word] | lax.shift_left(code, shift)

            each(write, None)
            register = column(lax.div(g, run))
            mine = (lanes.lane(scale) & (run - 1)) == lax.rem(g, run)
            scales_ref[here, register] = jnp.where(mine, scale, scales_ref[here, register])

        lax.fori_loop(0, x_ref.shape[1] // (LANES * tiles), group, None)
        words_ref[here, :] = codes_ref[...].astype(jnp.uint8)

    lax.fori_loop(0, tile.rows // tile.inner, inner, None)
