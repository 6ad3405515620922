"""The same numbers in about a third of the passes: regula falsi on the counts, bisection as the guard.

Every pass counts the patterns at or above a candidate. The candidate is where a straight line between
the two bracketing counts, drawn over the *values*, meets k (Illinois variant: a side that is kept
twice has its weight halved). Every sixth pass bisects the bit patterns instead, which bounds the passes at six
times the bits whatever the data. The search stops when a count is exactly k: the answer is then the
smallest pattern at or above the candidate.
"""

from math import prod
from typing import NamedTuple

import jax.numpy as jnp
from capscale.kernels.jit_inline import jit_inline
from jax import Array, lax

GUARD = 6  # passes between two bisections; 4 to 8 measured alike, and fewer bisections suit Gaussian data


class Bracket(NamedTuple):
    """`count(>= low) >= k > count(>= high)`, with the weights of the line between them."""

    low: Array
    high: Array
    surplus: Array
    deficit: Array
    side: Array
    passes: Array
    done: Array


def pattern_of(x: Array) -> tuple[Array, int]:
    """Integer that grows with |x|, and how many low bits were dropped: bfloat16 needs its own 15 alone."""
    dropped = 16 if x.dtype == jnp.bfloat16 else 0
    bits = lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    return lax.shift_right_logical(bits, jnp.int32(dropped)), dropped


def kth_pattern(pattern: Array, k: int | Array, axes: tuple[int, ...], dropped: int) -> Array:
    """k-th largest pattern over `axes` (kept with length 1)."""
    k = jnp.asarray(k, jnp.int32)

    def count(candidate: Array) -> Array:
        return jnp.sum(pattern >= candidate, axis=axes, keepdims=True, dtype=jnp.int32)

    def value(p: Array) -> Array:
        return lax.bitcast_convert_type(lax.shift_left(p, jnp.int32(dropped)), jnp.float32)

    def narrow(b: Bracket) -> Bracket:
        fraction = b.surplus / (b.surplus + b.deficit)
        line = value(b.low) + (value(b.high) - value(b.low)) * fraction
        line = lax.shift_right_arithmetic(lax.bitcast_convert_type(line, jnp.int32), jnp.int32(dropped))
        half = b.low + (b.high - b.low) // 2
        guess = jnp.where(b.passes % GUARD == GUARD - 1, half, line)
        guess = jnp.clip(guess, b.low + 1, b.high - 1)
        found = count(guess)
        up = found >= k
        error = (found - k).astype(jnp.float32)
        low, high = jnp.where(up, guess, b.low), jnp.where(up, b.high, guess)
        return Bracket(
            low,
            high,
            surplus=jnp.where(up, error + 0.5, jnp.where(b.side < 0, b.surplus / 2, b.surplus)),
            deficit=jnp.where(up, jnp.where(b.side > 0, b.deficit / 2, b.deficit), 0.5 - error),
            side=jnp.where(up, jnp.int32(1), jnp.int32(-1)),
            passes=b.passes + 1,
            done=b.done | (found == k) | (high - low <= 1),
        )

    top = jnp.max(pattern, axis=axes, keepdims=True)
    zero = jnp.zeros_like(top)
    size = pattern.size // max(top.size, 1)
    start = Bracket(
        low=zero,
        high=top + 1,
        surplus=(zero + size - k).astype(jnp.float32) + 0.5,
        deficit=(zero + k).astype(jnp.float32) + 0.5,
        side=zero,
        passes=jnp.int32(0),
        done=top < 1,
    )
    low = lax.while_loop(lambda b: ~jnp.all(b.done), narrow, start).low
    return jnp.min(jnp.where(pattern >= low, pattern, jnp.iinfo(jnp.int32).max), axis=axes, keepdims=True)


@jit_inline(2)
def kth_magnitude(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,)) -> Array:
    """k-th largest |x| over `axes` (kept with length 1), in the dtype of x.

    Exact for float32, bfloat16 and float16, by counting; no sort. 1 <= k <= size of `axes`; k may be traced.
    """
    pattern, dropped = pattern_of(x)
    kth = kth_pattern(pattern, k, axes, dropped)
    return lax.bitcast_convert_type(lax.shift_left(kth, jnp.int32(dropped)), jnp.float32).astype(x.dtype)


@jit_inline(2)
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
    threshold = lax.bitcast_convert_type(lax.shift_left(kth, jnp.int32(dropped)), jnp.float32).astype(x.dtype)
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

    high = jnp.full_like(wanted, prod(tied.shape[axis] for axis in axes))
    low = jnp.where(before(high) == wanted, high, 0)  # low == high: nothing to search

    def narrow(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + (high - low) // 2
        enough = before(middle) >= wanted
        return jnp.where(enough, low, jnp.minimum(middle + 1, high)), jnp.where(enough, middle, high)

    return lax.while_loop(lambda b: jnp.any(b[0] < b[1]), narrow, (low, high))[1]
