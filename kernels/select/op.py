"""Selection by magnitude: the k-th largest, and the mask of exactly k survivors."""

import jax.numpy as jnp
from jax import Array, lax

from .search import kth_pattern, pattern_of


def kth_magnitude(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,)) -> Array:
    """k-th largest |x| over `axes` (kept with length 1), in the dtype of x.

    Exact for float32, bfloat16 and float16, by counting; no sort. 1 <= k <= size of `axes`; k may be traced.
    """
    pattern, dropped = pattern_of(x)
    kth = kth_pattern(pattern, k, axes, dropped)
    return lax.bitcast_convert_type(lax.shift_left(kth, dropped), jnp.float32).astype(x.dtype)


def largest(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,)) -> tuple[Array, Array]:
    """Mask of the k entries of largest magnitude over `axes`, and the k-th magnitude.

    Exactly k are kept: among entries equal to the k-th, those that come first in row-major order over
    `axes`. Counts are integers, so that the mask is the same however the tensor is sharded.
    """
    pattern, dropped = pattern_of(x)
    kth = kth_pattern(pattern, k, axes, dropped)
    above = pattern > kth
    tied = pattern == kth
    wanted = jnp.asarray(k, jnp.int32) - jnp.sum(above, axis=axes, keepdims=True, dtype=jnp.int32)
    position = _position(x.shape, axes)
    end = _tie_break(tied, position, wanted, axes)
    threshold = lax.bitcast_convert_type(lax.shift_left(kth, dropped), jnp.float32).astype(x.dtype)
    return above | (tied & (position < end)), threshold


def _position(shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Row-major index over `axes`, of the given shape."""
    position = jnp.zeros(shape, jnp.int32)
    for axis in axes:
        position = position * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis % len(shape))
    return position


def _tie_break(tied: Array, position: Array, wanted: Array, axes: tuple[int, ...]) -> Array:
    """Smallest index with `wanted` tied entries before it. No pass at all where every tied entry is wanted."""

    def before(end: Array) -> Array:
        return jnp.sum(tied & (position < end), axis=axes, keepdims=True, dtype=jnp.int32)

    high = jnp.max(position, axis=axes, keepdims=True) + 1
    low = jnp.where(before(high) == wanted, high, 0)  # low == high: nothing to search

    def narrow(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + (high - low) // 2
        enough = before(middle) >= wanted
        return jnp.where(enough, low, jnp.minimum(middle + 1, high)), jnp.where(enough, middle, high)

    return lax.while_loop(lambda b: jnp.any(b[0] < b[1]), narrow, (low, high))[1]
