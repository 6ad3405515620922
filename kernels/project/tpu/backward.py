"""The gradient of the projection on a TPU: rotated, where it comes rotated back, then masked, then rotated back.

Behind a gated product that is not all: of a tile's gradient, gate and up come those of both, in the same pass.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from ..bitplanes import LANES
from ..spec import Spec
from . import prologue
from .calls import block_of_rows, compiler_params, cost
from .rotation import RotateBy, Rotation
from .rows import run_of
from .tiles import PLAIN, Tile, fitting_tile, memory, vmem_bytes


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
    if not g_RK.shape[0] or (mask_RW is None and spec.rotation is None):
        return g_RK
    rotation = Rotation.of(spec.rotation, g_RK.dtype, rotate_by, interpret)
    (found,) = _call(spec, mask_RW, g_RK, tile=tile, interpret=interpret, rotation=rotation)
    return found


def backward_gated(
    spec: Spec,
    mask_RW: Array | None,
    g_RK: Array,
    operands: Sequence[Array],
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: RotateBy | None = None,
) -> tuple[Array, Array]:
    """Gradients of gate and up, from that of the values of their projected product, rounded once.

    `operands`: of `Gate`.
    """
    if not g_RK.shape[0]:
        return g_RK, g_RK
    rotation = Rotation.of(spec.rotation, g_RK.dtype, rotate_by, interpret)
    gate_RK, up_RK, *shared = operands
    found = _call(spec, mask_RW, g_RK, gate_RK, up_RK, shared=shared, tile=tile, interpret=interpret, rotation=rotation)
    return found[0], found[1]


def _call(
    spec: Spec,
    mask_RW: Array | None,
    *rows: Array,
    tile: Tile | None,
    interpret: bool,
    rotation: Rotation,
    shared: Sequence[Array] = (),
) -> list[Array]:
    """Gradients from `rows`: that of the values, and what was gated, with the operands that it shares."""
    (count, width), dtype = rows[0].shape, rows[0].dtype
    masks, results = [] if mask_RW is None else [mask_RW], max(len(rows) - 1, 1)
    extra = prologue.backward_extra(len(shared)) if results > 1 else PLAIN
    needs = partial(vmem_bytes, extra=extra) if any(extra) else vmem_bytes
    tile = fitting_tile(tile, rows[0].shape, dtype, needs)
    block = partial(block_of_rows, memory(tile, width, dtype, extra))
    shapes = [jax.ShapeDtypeStruct((count, width), dtype)] * results
    return pl.pallas_call(
        partial(_backward, spec, tile, rotation, results, len(shared)),
        grid=(pl.cdiv(count, tile.rows),),
        in_specs=[
            *[block(width)] * len(rows),
            *[block(each.shape[1]) for each in masks],
            *[prologue.shared_block(width)] * len(shared),
            *rotation.specs,
        ],
        out_specs=[block(width)] * results,
        out_shape=shapes,
        compiler_params=compiler_params(needs(tile, width, dtype)),
        cost_estimate=cost(rotation, 1 + spec.back, *rows, *shapes, *masks),
        interpret=interpret,
        name=f"capscale_project{'_gated' if len(rows) > 1 else ''}_backward",
    )(*rows, *masks, *(each.reshape(1, width) for each in shared), *rotation.operands)


def _backward(spec: Spec, tile: Tile, rotation: Rotation, results: int, shared: int, *refs: Any) -> None:
    g_ref, *ins = refs[:-results]
    outs = refs[-results:]
    matrix = [ins.pop() for _ in rotation.specs]
    signs = [ins.pop() for _ in range(shared)]
    gated = [ins.pop(0) for _ in range(2)] if results > 1 else []
    width = g_ref.shape[1]
    tiles = width // LANES

    def step(i: Array, _: None) -> None:
        here = pl.ds(lax.div(i, tiles) * tile.inner, tile.inner)
        c = lax.rem(i, tiles)
        g = behind_mask(spec, rotation, g_ref, (here, c), masks=ins, matrix=matrix)
        found = prologue.pulled(g, (here, c), *gated, *signs) if gated else [g]
        for out_ref, of in zip(outs, found, strict=True):
            out_ref[here, run_of(c)] = of.astype(out_ref.dtype)

    lax.fori_loop(0, tile.rows // tile.inner * tiles, step, None)


def behind_mask(
    spec: Spec, rotation: Rotation, g_ref: Any, at: tuple[Any, Any], *, masks: list[Any], matrix: list[Any]
) -> Array:
    """Gradient of the projected rows, float32: of the tile (R, 128) that lies `at` (here, c); `masks`: one or none."""
    here, c = at
    g = g_ref[here, run_of(c)].astype(jnp.float32)
    if spec.back:
        g = rotation(g, matrix)
    for mask_ref in masks:
        stride = mask_ref.shape[1] // LANES
        word = mask_ref[here, run_of(lax.rem(c, stride))].astype(jnp.int32)
        bit = lax.shift_right_logical(word, jnp.full(word.shape, lax.div(c, stride), jnp.int32)) & 1
        g = jnp.where(bit == 1, g, 0.0)
    return rotation(g, matrix)
