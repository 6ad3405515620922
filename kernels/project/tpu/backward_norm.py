"""The gradient of a norm and the projection behind it on a TPU, in one pass: of what is normalised, and of the gain.

g     (R, 128) tiles of a strip --> masked, rotated back: dy --> (R, K) float32 in scratch
x     (R, 128) tiles, with dy --> sums over a row of x^2 and of dy gain x, (R, 128), then over its lanes
dx    dy gain / norm - x (sum of dy gain x) / (K norm^3), added to what comes past the norm; rounded once
dgain (8, K) float32 for each block of rows: sums of dy x / norm, which XLA adds up
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ..bitplanes import LANES
from ..norm import Norm
from ..spec import Spec
from . import prologue
from .backward import behind_mask
from .calls import block_of_rows, compiler_params, cost
from .columns import SUBLANES
from .rotation import RotateBy, Rotation
from .rows import Tiles, run_of
from .tiles import Tile, fitting_tile, memory, vmem_bytes

AT_ONCE = 8
"""Tiles in a trip of a loop: some are read and multiplied while others are in the vector unit."""


def backward_normed(
    spec: Spec,
    norm: Norm,
    mask_RW: Array | None,
    gradients: tuple[Array, Array],
    operands: tuple[Array, Array],
    *,
    tile: Tile | None = None,
    interpret: bool = False,
    rotate_by: RotateBy | None = None,
) -> tuple[Array, Array]:
    """Gradients of x (R, K) and, in parts (P, K) float32 to be added up, of the gain.

    `gradients`: of the values, and of x by another way, which a residual connection takes: added ahead of the rounding.
    `operands`: of the norm.
    """
    (g_RK, past_RK), (x_RK, gain_K) = gradients, operands
    (count, width), dtype = x_RK.shape, x_RK.dtype
    if not count:
        return past_RK, jnp.zeros((1, width), jnp.float32)
    rotation = Rotation.of(spec.rotation, dtype, rotate_by, interpret)
    extra = prologue.NORM_BACKWARD
    needs = partial(vmem_bytes, extra=extra)
    tile = fitting_tile(tile, x_RK.shape, dtype, needs)
    block, steps = partial(block_of_rows, memory(tile, width, dtype, extra)), pl.cdiv(count, tile.rows)
    masks = [] if mask_RW is None else [mask_RW]
    shapes = [
        jax.ShapeDtypeStruct((count, width), dtype),
        jax.ShapeDtypeStruct((steps * SUBLANES, width), jnp.float32),
    ]
    dx_RK, dgain_PK = pl.pallas_call(
        partial(_backward, spec, norm, tile, rotation, count),
        grid=(steps,),
        in_specs=[
            *[block(width)] * 3,
            *[block(each.shape[1]) for each in masks],
            prologue.shared_block(width),
            *rotation.specs,
        ],
        out_specs=[block(width), pl.BlockSpec((SUBLANES, width), lambda i: (i, 0))],
        out_shape=shapes,
        scratch_shapes=[pltpu.VMEM((tile.inner, width), jnp.float32)],
        compiler_params=compiler_params(needs(tile, width, dtype)),
        cost_estimate=cost(rotation, 1 + spec.back, g_RK, past_RK, x_RK, *shapes, *masks),
        interpret=interpret,
        name="capscale_project_normed_backward",
    )(g_RK, past_RK, x_RK, *masks, gain_K.reshape(1, width), *rotation.operands)
    return dx_RK, dgain_PK


def _backward(spec: Spec, norm: Norm, tile: Tile, rotation: Rotation, count: int, *refs: Any) -> None:
    *ins, dx_ref, dgain_ref, dy_ref = refs
    g_ref, past_ref, x_ref = (ins.pop(0) for _ in range(3))
    matrix = [ins.pop() for _ in rotation.specs]
    gain_ref, masks = ins.pop(), ins
    width = x_ref.shape[1]
    every = Tiles(0, width // LANES, AT_ONCE)
    block = pl.program_id(0) * tile.rows
    dgain_ref[...] = jnp.zeros_like(dgain_ref)

    def gain_of(c: Any, x: Array) -> Array:
        return jnp.broadcast_to(gain_ref[:, run_of(c)], x.shape)

    def strip(i: Array, _: None) -> None:
        here = pl.ds(i * tile.inner, tile.inner)

        def measure(c: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            dy = behind_mask(spec, rotation, g_ref, (here, c), masks=masks, matrix=matrix)
            dy_ref[:, run_of(c)] = dy
            x = x_ref[here, run_of(c)].astype(jnp.float32)
            return sums[0] + jnp.square(x), sums[1] + dy * gain_of(c, x) * x

        start = jnp.zeros((tile.inner, LANES), jnp.float32)
        squares, dots = (jnp.sum(of, axis=1, keepdims=True) / width for of in every(measure, (start, start)))
        inverse_R1 = lax.rsqrt(squares + norm.epsilon)
        inverse, share = (
            jnp.broadcast_to(of, start.shape) for of in (inverse_R1, dots * inverse_R1 * inverse_R1 * inverse_R1)
        )
        row = block + i * tile.inner + lax.broadcasted_iota(jnp.int32, start.shape, 0)

        def write(c: Any, _: None) -> None:
            dy, x = dy_ref[:, run_of(c)], x_ref[here, run_of(c)].astype(jnp.float32)
            scaled = dy * inverse
            of_gain = scaled * x
            if count % tile.rows:  # what lies behind the last row is anything
                of_gain = jnp.where(row < count, of_gain, 0.0)
            dgain_ref[:, run_of(c)] += jnp.sum(of_gain.reshape(-1, SUBLANES, LANES), axis=0)
            dx = scaled * gain_of(c, x) - x * share + past_ref[here, run_of(c)].astype(jnp.float32)
            dx_ref[here, run_of(c)] = dx.astype(dx_ref.dtype)

        every(write, None)

    lax.fori_loop(0, tile.rows // tile.inner, strip, None)
