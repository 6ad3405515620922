"""Products of codes with codes, as matrix units for 8 bits take them: levels are multiplied first, scales after.

    y = (sum_k level(x_k) level(w_k)) * scale of the row of x * scale of the output of w

A level of a grid of equal steps is `unit (factor code + offset)` of an int8 code, and the sum

    fx fw sum cx cw + fx ow sum cx + fw ox sum cw + K ox ow

a whole number of units, which int32 holds: it is exact. Levels that are numbers of float8_e4m3fn are their own codes;
a product of two is exact in float32, and sums are rounded as those of values are.
"""

from functools import reduce
from itertools import pairwise
from math import frexp, gcd
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

Levels = Any
"""Of a grid, ascending: a sequence or an array of floats."""
Kind = Literal["int8", "float8"]
DTYPES = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn}
LEAST, MOST = -128, 127  # of int8
SUM = 2**31 - 1  # of int32
FINEST = 7  # a unit is a power of two from 2^-7 on: smaller ones do not hold a grid that spans 1 in int8
FLOAT8 = 448.0
"""The largest number of float8_e4m3fn, whose smallest is 2^-9; there are four significant bits."""


class Steps(NamedTuple):
    """Level that a code stands for: `unit * (factor * code + offset)`."""

    unit: float = 1.0
    factor: int = 1
    offset: int = 0


class Pair(NamedTuple):
    """How the codes of both operands are multiplied."""

    kind: Kind
    x: Steps = Steps()
    w: Steps = Steps()


class Multiplicand(NamedTuple):
    """One operand of a product of codes: x (..., K) with scales (..., 1), or w (..., K, F) with scales (..., 1, F)."""

    codes: Array
    """Of the dtype int8 or float8_e4m3fn."""
    scales: Array
    """float32; NaN where anything that it scales was not finite."""


def steps_of(levels: Levels) -> Steps | None:
    """Steps of ascending levels in int8, without an offset where there is a way; None where there is none."""
    for power in range(FINEST + 1):
        whole = [float(level) * 2**power for level in levels]
        if all(number.is_integer() for number in whole):
            break
    else:
        return None
    numbers, unit = [int(number) for number in whole], 2.0**-power
    if numbers[0] >= LEAST and numbers[-1] <= MOST:
        return Steps(unit)
    factor = reduce(gcd, (upper - lower for lower, upper in pairwise(numbers)))
    offset = numbers[0] - factor * LEAST
    return Steps(unit, factor, offset) if numbers[-1] <= factor * MOST + offset else None


def is_float8(levels: Levels) -> bool:
    """Whether all levels are numbers of float8_e4m3fn."""
    return all(
        abs(level) <= FLOAT8 and (level * 2.0**9).is_integer() and (frexp(level)[0] * 2**4).is_integer()
        for level in map(float, levels)
    )


def pair_of(x_levels: Levels, w_levels: Levels, width: int) -> Pair | str:
    """How codes of these grids are multiplied over `width` inputs, or why they are not."""
    x, w = steps_of(x_levels), steps_of(w_levels)
    if x is not None and w is not None:
        one = [_largest(levels, steps) for levels, steps in ((x_levels, x), (w_levels, w))]
        codes = x.factor * one[0] * w.factor * one[1]
        corrections = abs(w.offset) * x.factor * one[0] + abs(x.offset) * w.factor * one[1] + abs(x.offset * w.offset)
        if width * (codes + corrections) <= SUM:
            return Pair("int8", x, w)
        return f"int32 does not hold sums over {width} inputs, {SUM // (codes + corrections)} at most"
    if is_float8(x_levels) and is_float8(w_levels):
        return Pair("float8")
    return "levels of both are neither equal steps that int8 counts nor numbers of float8_e4m3fn"


def _largest(levels: Levels, steps: Steps) -> int:
    return max(abs(int((float(level) / steps.unit - steps.offset) / steps.factor)) for level in (levels[0], levels[-1]))


def as_codes(level: Array, steps: Steps, kind: Kind) -> Array:
    """Codes of float32 levels. Elementwise, and exact."""
    if kind == "float8":
        return level.astype(DTYPES[kind])
    return ((level * (1 / steps.unit) - steps.offset) / steps.factor).astype(DTYPES[kind])


def multiply(pair: Pair, x: Multiplicand, w: Multiplicand) -> Array:
    """y (..., F) of x (..., K) and w (K, F), float32: sums of codes are scaled by the row, then by the output."""
    over = (((x.codes.ndim - 1,), (0,)), ((), ()))
    if pair.kind == "float8":
        # Hopper sums float8 in fewer bits than float32 unless told that precision is wanted (openxla/xla pull 6599).
        total = lax.dot_general(
            x.codes, w.codes, over, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )
    else:
        total = _units(pair, x.codes, w.codes, over).astype(jnp.float32) * (pair.x.unit * pair.w.unit)
    outputs = w.scales.reshape((1,) * (total.ndim - 1) + (w.scales.shape[-1],))
    return total * jnp.broadcast_to(x.scales, total.shape) * jnp.broadcast_to(outputs, total.shape)


def _units(
    pair: Pair, x: Array, w: Array, over: tuple[tuple[tuple[int], tuple[int]], tuple[tuple[()], tuple[()]]]
) -> Array:
    """Sums of products of levels, in units of both, int32."""
    of_x, of_w = pair.x, pair.w
    total = of_x.factor * of_w.factor * lax.dot_general(x, w, over, preferred_element_type=jnp.int32)
    if of_w.offset:
        rows = jnp.sum(x, axis=-1, keepdims=True, dtype=jnp.int32)
        total = total + jnp.broadcast_to(of_x.factor * of_w.offset * rows, total.shape)
    if of_x.offset:
        outputs = jnp.sum(w, axis=0, dtype=jnp.int32).reshape((1,) * (total.ndim - 1) + (w.shape[1],))
        total = total + jnp.broadcast_to(of_w.factor * of_x.offset * outputs, total.shape)
    return total + x.shape[-1] * of_x.offset * of_w.offset if of_x.offset and of_w.offset else total
