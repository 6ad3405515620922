"""Bisection on the bit pattern: the definition that every other selection is compared with.

The bits of a non-negative IEEE number, read as an integer, grow with the number. The k-th largest
magnitude is therefore the largest pattern t with `count(pattern >= t) >= k`, found bit by bit.
"""

import jax.numpy as jnp
from jax import Array, lax


def kth_magnitude(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,)) -> Array:
    """k-th largest |x| over `axes` (kept with length 1), in the dtype of x. 1 <= k <= size of `axes`."""
    patterns = lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)

    def set_bit(i: Array, found: Array) -> Array:
        candidate = found | lax.shift_left(jnp.int32(1), jnp.asarray(30 - i, jnp.int32))
        count = jnp.sum(patterns >= candidate, axis=axes, keepdims=True, dtype=jnp.int32)
        return jnp.where(count >= k, candidate, found)

    start = jnp.zeros_like(jnp.max(patterns, axis=axes, keepdims=True))
    return lax.bitcast_convert_type(lax.fori_loop(0, 31, set_bit, start), jnp.float32).astype(x.dtype)
