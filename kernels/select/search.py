"""The same numbers in about a third of the passes: regula falsi on the counts, bisection as the guard.

Every pass counts the patterns at or above a candidate. The candidate is where a straight line between
the two bracketing counts, drawn over the *values*, meets k (Illinois variant: a side that is kept
twice has its weight halved). Every sixth pass bisects the bit patterns instead, which bounds the passes at six
times the bits whatever the data. The search stops when a count is exactly k: the answer is then the
smallest pattern at or above the candidate.

Where many are searched, and all of them are here, a sample of them is searched first, for the two ranks between which
k lies in all likelihood. A line between these meets k in fewer passes, and a count that is exactly k needs no
proof that the ends were right. One that was not is moved out, by steps that grow, until it is.
"""

from math import prod
from typing import NamedTuple

import jax.numpy as jnp
from capscale.kernels.jit_inline import jit_inline
from jax import Array, lax

GUARD = 6  # passes between two bisections; 4 to 8 measured alike, and fewer bisections suit Gaussian data


STRIDE = 61
"""Of so many values one is in the sample; a prime, so that it is spread over rows and columns alike."""
SAMPLED = 2**17
"""Fewest values of which a sample is taken: below, the passes saved cost no more than its search."""
MARGIN = 4.0
"""Standard deviations of a rank in the sample that its ends are taken from."""


class Bracket(NamedTuple):
    """`count(>= low) >= k > count(>= high)`, with the weights of the line between them.

    An end that is not `sure` comes from a sample, and may be on the wrong side; it is moved by `reach` then.
    """

    low: Array
    high: Array
    surplus: Array
    deficit: Array
    side: Array
    passes: Array
    done: Array
    sure_low: Array
    sure_high: Array
    reach: Array


def pattern_of(x: Array) -> tuple[Array, int]:
    """Integer that grows with |x|, and how many low bits were dropped: bfloat16 needs its own 15 alone."""
    dropped = 16 if x.dtype == jnp.bfloat16 else 0
    bits = lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    return lax.shift_right_logical(bits, jnp.int32(dropped)), dropped


def kth_pattern(pattern: Array, k: int | Array, axes: tuple[int, ...], dropped: int, whole: bool = False) -> Array:
    """k-th largest pattern over `axes` (kept with length 1); `k` is one number, or broadcasts to the result.

    `whole`: nothing is split over devices, so that values may be picked out and put in line at no cost.
    """
    k = jnp.asarray(k, jnp.int32)
    over = {axis % pattern.ndim for axis in axes}
    kept = tuple(1 if axis in over else length for axis, length in enumerate(pattern.shape))
    size = pattern.size // max(prod(kept), 1)
    whole &= k.ndim == 0
    if whole and axes == tuple(range(-len(axes), 0)):  # a reduction over one axis is a plain loop on a CPU
        pattern, axes = pattern.reshape(*pattern.shape[: -len(axes)], size), (-1,)

    def count(candidate: Array) -> Array:
        return jnp.sum(pattern >= candidate, axis=axes, keepdims=True, dtype=jnp.int32)

    def value(p: Array) -> Array:
        return lax.bitcast_convert_type(lax.shift_left(p, jnp.int32(dropped)), jnp.float32)

    def narrow(b: Bracket) -> Bracket:
        fraction = b.surplus / (b.surplus + b.deficit)
        line = value(b.low) + (value(b.high) - value(b.low)) * fraction
        half = b.low + (b.high - b.low) // 2
        bisected = (b.passes % GUARD == GUARD - 1) | ~jnp.isfinite(line)
        line = lax.shift_right_arithmetic(lax.bitcast_convert_type(line, jnp.int32), jnp.int32(dropped))
        guess = jnp.clip(jnp.where(bisected, half, line), b.low + 1, b.high - 1)
        found = count(guess)
        up = found >= k
        error = (found - k).astype(jnp.float32)
        low, high = jnp.where(up, guess, b.low), jnp.where(up, b.high, guess)
        sure_low, sure_high = b.sure_low | up, b.sure_high | ~up
        closed = high - low <= 1
        lower = jnp.where(closed & ~sure_low, jnp.minimum(b.reach, low), 0)
        higher = jnp.where(closed & ~sure_high, jnp.minimum(b.reach, beyond - high), 0)
        return Bracket(
            low - lower,
            high + higher,
            surplus=jnp.where(up, error + 0.5, jnp.where(b.side < 0, b.surplus / 2, b.surplus)),
            deficit=jnp.where(up, jnp.where(b.side > 0, b.deficit / 2, b.deficit), 0.5 - error),
            side=jnp.where(up, jnp.int32(1), jnp.int32(-1)),
            passes=b.passes + 1,
            done=b.done | (found == k) | (closed & sure_low & sure_high),
            sure_low=sure_low | (low - lower == 0),
            sure_high=sure_high | (high + higher == beyond),
            reach=jnp.where(lower + higher > 0, jnp.minimum(b.reach, 2**28) * 4, b.reach),
        )

    sampled = whole and axes == (-1,) and size >= SAMPLED
    # The end of all numbers takes a pass to find, which a search between ends from a sample goes without.
    top = None if sampled else jnp.max(pattern, axis=axes, keepdims=True)
    beyond = jnp.int32(jnp.iinfo(jnp.int32).max >> dropped) if top is None else top + 1
    start = _from_sample(pattern, k, size, dropped) if top is None else _from_all(k, size, top)
    low = lax.while_loop(lambda b: ~jnp.all(b.done), narrow, start).low
    found = jnp.min(jnp.where(pattern >= low, pattern, jnp.iinfo(jnp.int32).max), axis=axes, keepdims=True)
    return found.reshape(kept) if whole else found


def _from_all(k: Array, size: int, top: Array) -> Bracket:
    """From nothing to beyond the largest."""
    zero = jnp.broadcast_to(jnp.zeros_like(top), jnp.broadcast_shapes(top.shape, k.shape))
    return Bracket(
        low=zero,
        high=zero + top + 1,
        surplus=(zero + size - k).astype(jnp.float32) + 0.5,
        deficit=(zero + k).astype(jnp.float32) + 0.5,
        side=zero,
        passes=jnp.int32(0),
        done=zero + top < 1,
        sure_low=zero == 0,
        sure_high=zero == 0,
        reach=zero,
    )


def _from_sample(pattern: Array, k: Array, size: int, dropped: int) -> Bracket:
    """Between two of every `STRIDE`-th of the values in line along the last axis; k is one number."""
    sample = pattern[..., None, ::STRIDE]
    values = sample.shape[-1]
    kf = k.astype(jnp.float32)
    rank = kf * (values / size)
    margin = MARGIN * jnp.sqrt(rank * (1 - rank / values)) + 1
    ranks = jnp.stack([jnp.ceil(rank + margin), jnp.floor(rank - margin)]).astype(jnp.int32)
    shape = (*sample.shape[:-2], 2, 1)
    at = jnp.broadcast_to(jnp.clip(ranks, 1, values)[:, None], shape)
    low, high = jnp.moveaxis(kth_pattern(sample, at, (-1,), dropped), -2, 0)
    low = jnp.where(ranks[0] > values, 0, low)
    # A k so small that all of the sample may lie below: the end is that of all values.
    end = lax.cond(ranks[1] < 1, lambda: jnp.max(pattern, axis=-1, keepdims=True), lambda: high)
    high = jnp.where(ranks[1] < 1, end, high) + 1
    nothing, weight, apart = jnp.zeros_like(low), jnp.zeros_like(low, jnp.float32), margin * (size / values)
    return Bracket(
        low=low,
        high=high,
        surplus=weight + jnp.minimum(apart, size - kf) + 0.5,
        deficit=weight + jnp.minimum(apart, kf) + 0.5,
        side=nothing,
        passes=jnp.int32(0),
        done=nothing != 0,
        sure_low=low == 0,
        sure_high=(nothing + ranks[1]) < 1,
        reach=high - low,
    )


@jit_inline(2, 3)
def kth_magnitude(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,), whole: bool = False) -> Array:
    """k-th largest |x| over `axes` (kept with length 1), in the dtype of x.

    Exact for float32, bfloat16 and float16, by counting; no sort. 1 <= k <= size of `axes`; k may be traced.
    `whole`: x is not split over devices, see `kth_pattern`.
    """
    pattern, dropped = pattern_of(x)
    kth = kth_pattern(pattern, k, axes, dropped, whole)
    return lax.bitcast_convert_type(lax.shift_left(kth, jnp.int32(dropped)), jnp.float32).astype(x.dtype)


@jit_inline(2, 3)
def largest(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,), whole: bool = False) -> tuple[Array, Array]:
    """Mask of the k entries of largest magnitude over `axes`, and the k-th magnitude.

    Exactly k are kept: among entries equal to the k-th, those that come first in row-major order over
    `axes`. Counts are integers, so that the mask is the same however the tensor is sharded, or said to be `whole`.
    """
    pattern, dropped = pattern_of(x)
    kth = kth_pattern(pattern, k, axes, dropped, whole)
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
