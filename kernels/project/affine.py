"""Scales with an offset: `value = scale * level + offset`, of groups that do not lie about zero.

The rules here read both ends of a group. What is stored of a scale are its `parts`; `combine` makes of them the scale
and the offset, here as where stored parts are read again.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from .scales import Statistic, in_16_bits, normalised, reciprocal, rounded

Number = Literal["float32", "bfloat16", "float16"]
LOWEST = -(2**31) + 1
"""Below every `order`."""


class Extremes(NamedTuple):
    """Both ends of a group, float32. NaN in it makes NaN of one of them."""

    low: Array
    high: Array


class ScaleOffset(NamedTuple):
    """How many units of the row one unit of the grid is, and where its zero lies, in units of the row."""

    scale: Array
    offset: Array


def order(x: Array) -> Array:
    """Integers that order as float32 `x` does; NaN beyond both ends, which the extremes of floats would pass over."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    magnitude = bits & jnp.int32(0x7FFFFFFF)
    return jnp.where(bits < 0, -magnitude, magnitude)


def from_order(key: Array) -> Array:
    """Inverse of `order`; no negative zero."""
    magnitude = lax.bitcast_convert_type(jnp.where(key < 0, -key, key), jnp.float32)
    return jnp.where(key < 0, -magnitude, magnitude)


def extremes(x: Array, axes: tuple[int, ...] = (-1,)) -> Extremes:
    """Both ends of float32 `x` over `axes`, kept with length 1."""
    key = order(x)
    high = jnp.max(key, axis=axes, keepdims=True, initial=LOWEST)
    return Extremes(from_order(-jnp.max(-key, axis=axes, keepdims=True, initial=LOWEST)), from_order(high))


def stored(x: Array, number: Number) -> Array:
    """Float32 `x` of either sign, rounded to the float that it is stored in."""
    if number == "float32":
        return x
    magnitude = in_16_bits(jnp.abs(x), number)
    return jnp.where(x < 0, -magnitude, magnitude)


@dataclass(frozen=True)
class RangeOver:
    """The lowest level, `bottom`, stands at the low end of the group and the highest, `top`, at its high end.

    `zero_point`: the offset is a whole number of steps, so that zero is a level, and the range reaches to zero if it
    does not include it. Else it is the low end itself.
    """

    bottom: float
    top: float
    number: Number = "float16"
    zero_point: bool = True
    statistic: ClassVar[Statistic] = "extremes"
    given: ClassVar[bool] = False

    def parts(self, ends: Extremes) -> tuple[Array, Array]:
        """The scale, and the zero point (0 to `top - bottom`) or the low end."""
        low, high = ends
        if self.zero_point:  # by comparisons that leave NaN as it is
            low, high = jnp.where(low > 0, 0.0, low), jnp.where(high < 0, 0.0, high)
        scale = stored((high - low) * reciprocal(self.top - self.bottom), self.number)
        if not self.zero_point:
            return scale, stored(low, self.number)
        return scale, jnp.clip(jnp.round(-normalised(low, scale)), 0.0, self.top - self.bottom)

    def combine(self, scale: Array, second: Array) -> ScaleOffset:
        """Scale and offset of the parts."""
        if self.zero_point:
            return ScaleOffset(scale, -rounded((second + self.bottom) * scale))
        return ScaleOffset(scale, second - rounded(self.bottom * scale))

    def __call__(self, statistic: Extremes, given: Array | None) -> ScaleOffset:
        """`(high - low) / (top - bottom)`, and the offset."""
        return self.combine(*self.parts(statistic))


@dataclass(frozen=True)
class SignedLargestOver:
    """The lowest level, `bottom`, stands at the value of largest magnitude, whichever its sign (GGML's Q4_0).

    The scale that is stored has a sign: negative where that value is above zero, which mirrors the grid.
    """

    bottom: float
    top: float
    number: Number = "float16"
    statistic: ClassVar[Statistic] = "extremes"
    given: ClassVar[bool] = False

    def parts(self, ends: Extremes) -> tuple[Array]:
        """The scale with its sign; where both ends are as far, that of the low one."""
        low, high = ends
        largest = jnp.where(jnp.isnan(high), high, jnp.where(high > -low, high, -low))
        scale = stored(jnp.abs(largest) * reciprocal(-self.bottom), self.number)
        return (jnp.where(high > -low, -scale, scale),)

    def combine(self, signed: Array) -> ScaleOffset:
        """Of the part: mirrored levels are the levels, moved by the sum of both ends of the grid."""
        scale = jnp.abs(signed)
        return ScaleOffset(scale, jnp.where(signed < 0, rounded(-(self.bottom + self.top) * scale), 0.0))

    def __call__(self, statistic: Extremes, given: Array | None) -> ScaleOffset:
        """`largest magnitude / -bottom`, and what mirrors the grid."""
        return self.combine(*self.parts(statistic))
