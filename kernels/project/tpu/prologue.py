"""The root-mean-square norm of rows on a TPU, ahead of their rotation, in the kernel that projects them.

x    (R, 128) tiles of a strip, read twice: once for the sum of squares of every row, once to be normalised
sum  (R, 128) float32, then over its lanes --> (R, 1) --> inverse of the norm, (R, 128) in scratch
gain (1, K), the same for all rows
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ..bitplanes import LANES
from ..spec import Spec
from .rows import Tiles, run_of
from .tiles import SPILLED, SUBLANES, VMEM, Extra, Tile, memory


def unsupported(spec: Spec, width: int, dtype: DTypeLike) -> str | None:
    """Why the projection of such rows does not normalise them, or None where it does."""
    if spec.scale is not None and spec.scale.given:
        return "numbers that are given for rows are of normalised ones"
    if memory(Tile(SUBLANES, SUBLANES), width, dtype, Extra(True, True)).total + SPILLED > VMEM:
        return f"{SUBLANES} rows of {width} values, their codes and a gain do not fit into {VMEM >> 20} MiB"
    return None


def scratch(tile: Tile) -> list[Any]:
    """Memory for the inverse of the norms of a strip."""
    return [pltpu.VMEM((tile.inner, LANES), jnp.float32)]


def blocks(width: int) -> list[pl.BlockSpec]:
    """Block of the gain, which every step reads."""
    return [pl.BlockSpec((1, width), lambda i: (0, 0))]


def measure(x_ref: Any, here: Any, each: Tiles, epsilon: float, inverse_ref: Any) -> None:
    """Writes the inverse of the norm of every row of a strip."""
    width = x_ref.shape[1]

    def add(c: Any, total: Array) -> Array:
        return total + jnp.square(x_ref[here, run_of(c)].astype(jnp.float32))

    total = each.longer(add, jnp.zeros(inverse_ref.shape, jnp.float32))
    mean = jnp.sum(total, axis=1, keepdims=True) / width
    inverse_ref[...] = jnp.broadcast_to(lax.rsqrt(mean + epsilon), inverse_ref.shape)


def normalised(x: Array, c: Any, inverse_ref: Any, gain_ref: Any) -> Array:
    """Tile c of a strip, (R, 128), normalised and rounded to its dtype."""
    gain = jnp.broadcast_to(gain_ref[:, run_of(c)], x.shape)
    return (x.astype(jnp.float32) * inverse_ref[...] * gain).astype(x.dtype)
