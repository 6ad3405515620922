"""The gradient of the projection on a TPU: rotated, where it comes rotated back, then masked, then rotated back."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from ..bitplanes import LANES
from ..spec import Spec
from .calls import block_of_rows, compiler_params, cost
from .rotation import RotateBy, Rotation
from .rows import run_of
from .tiles import Tile, fitting_tile, memory, vmem_bytes


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
