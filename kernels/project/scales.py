"""Scales of groups: the rules that make them, and values in units of them.

A grid is an object with `nearest(u)`, a scale rule a callable: elementwise jnp, which compiles inside a kernel as well
as outside.
"""

import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import jax.numpy as jnp
from jax import Array, lax

Statistic = Literal["rms", "largest", "extremes", "none"]
"""Statistics of a group; `extremes` are both ends, and a rule that reads them gives an offset as well (`affine`)."""


class Grid(Protocol):
    """A finite set of levels on normalised values; frozen and hashable."""

    @property
    def levels(self) -> Any:
        """Distinct levels, ascending: a sequence or an array of floats."""
        ...

    def nearest(self, u: Array) -> tuple[Array, Array]:
        """Nearest level to float32 `u`, and the distance between levels around it. NaN stays NaN."""
        ...


class KernelRule(Protocol):
    """How many units of the row one unit of the grid is; frozen and hashable."""

    statistic: ClassVar[Statistic]
    """Statistic of its group that it reads."""
    given: ClassVar[bool]
    """Whether it reads a number that the caller passes for every row."""

    def __call__(self, statistic: Any, given: Any) -> Any:
        """The scale, float32, of the shape of `statistic`, or of `given` where it reads that alone.

        An array; of rules that read both ends of a group, an `affine.ScaleOffset`.
        """
        ...


_SIGNIFICAND = (1 << 23) - 1  # of a float32
SMALLEST = 2.0**-126
"""The smallest normal float32: smaller ones are zeros on accelerators, and have no reciprocal anywhere."""


def reciprocal(constant: float) -> Array:
    """`1 / constant`, to be multiplied with in place of a division by it.

    XLA does so itself when it compiles, and not when it runs operation by operation: scales differed in the last bit.
    """
    (single,) = struct.unpack("f", struct.pack("f", constant))
    return jnp.float32(1 / single)


def _bits(constant: float) -> int:
    """Of a positive constant in float32."""
    (bits,) = struct.unpack("i", struct.pack("f", constant))
    return bits


@dataclass(frozen=True)
class RmsTimes:
    """`factor` times the root mean square of the group."""

    factor: float
    statistic: ClassVar[Statistic] = "rms"
    given: ClassVar[bool] = False

    def __call__(self, statistic: Array, given: Array | None) -> Array:
        """Scale by the RMS: `rms * factor`."""
        return statistic * jnp.float32(self.factor)


@dataclass(frozen=True)
class LargestOver:
    """The largest magnitude of the group over the outermost level, rounded to the float that it is stored in."""

    top: float
    number: Literal["float32", "bfloat16", "float16"] = "float32"
    statistic: ClassVar[Statistic] = "largest"
    given: ClassVar[bool] = False

    def __call__(self, statistic: Array, given: Array | None) -> Array:
        """`max |x| / top`."""
        scale = statistic * reciprocal(self.top)
        return scale if self.number == "float32" else in_16_bits(scale, self.number)


@dataclass(frozen=True)
class PowerOfTwoOver:
    """The power of two below ("floor") or not below ("ceil") the largest magnitude over `reference`."""

    reference: float
    rounding: Literal["floor", "ceil"] = "floor"
    statistic: ClassVar[Statistic] = "largest"
    given: ClassVar[bool] = False

    def __call__(self, statistic: Array, given: Array | None) -> Array:
        """2^-126 to 2^127; a maximum that is not finite stays. By the exponents and significands of both: exact."""
        bits, reference = lax.bitcast_convert_type(statistic, jnp.int32), _bits(self.reference)
        significand, of_reference = bits & _SIGNIFICAND, reference & _SIGNIFICAND
        field = lax.shift_right_logical(bits, jnp.int32(23)) - (reference >> 23) + 127
        if self.rounding == "ceil":
            field = field + (significand > of_reference).astype(jnp.int32)
        else:
            field = field - (significand < of_reference).astype(jnp.int32)
        scale = lax.bitcast_convert_type(lax.shift_left(jnp.clip(field, 1, 254), jnp.int32(23)), jnp.float32)
        return jnp.where(statistic < jnp.inf, scale, statistic)


@dataclass(frozen=True)
class LevelTimes:
    """The level of `scales` nearest to `max |x| / (top given)`, times the given outer scale."""

    scales: Grid
    top: float
    statistic: ClassVar[Statistic] = "largest"
    given: ClassVar[bool] = True

    def __call__(self, statistic: Array, given: Array) -> Array:
        """Scale of two levels: the group's times the tensor's."""
        return self.inner(statistic, given) * jnp.broadcast_to(given, statistic.shape)

    def inner(self, statistic: Array, given: Array) -> Array:
        """The level of `scales`."""
        # A product with a reciprocal, which is what XLA makes of some divisions by a broadcast number, not of all.
        return self.scales.nearest(statistic * (1.0 / (jnp.float32(self.top) * jnp.where(given > 0, given, 1.0))))[0]


@dataclass(frozen=True)
class ExternalScale:
    """The scale is what the caller passes."""

    statistic: ClassVar[Statistic] = "none"
    given: ClassVar[bool] = True

    def __call__(self, statistic: Array | None, given: Array) -> Array:
        """The number that is given."""
        return given


def in_16_bits(x: Array, number: Literal["bfloat16", "float16"]) -> Array:
    """Float32 `x` >= 0 rounded to the nearest number of that format, ties to even, by its bits; still float32.

    XLA leaves out a cast forth and back, which it counts as excess precision. Float16 saturates, and holds nothing but
    multiples of 2^-24 below 2^-14.
    """
    bits = lax.bitcast_convert_type(x, jnp.int32)
    if number == "bfloat16":
        odd = lax.shift_right_logical(bits, jnp.int32(16)) & 1
        found = lax.bitcast_convert_type((bits + jnp.int32(0x7FFF) + odd) & jnp.int32(-(1 << 16)), jnp.float32)
    else:
        exponent = jnp.clip(lax.shift_right_logical(bits, jnp.int32(23)), 127 - 14, 127 + 15) - 10
        quantum = lax.bitcast_convert_type(lax.shift_left(exponent, jnp.int32(23)), jnp.float32)
        inverse = lax.bitcast_convert_type(lax.shift_left(254 - exponent, jnp.int32(23)), jnp.float32)
        found = jnp.minimum(jnp.round(x * inverse) * quantum, 65504.0)
    return jnp.where(x < jnp.inf, found, x)


def rounded(product: Array) -> Array:
    """Rounds a product to float32; NaN where it is not finite.

    XLA would fuse it, unrounded, into an addition that follows (FMA), so that a projected value would depend on what it
    is used for. The `where` blocks that fusion; an optimization barrier is removed before it.
    """
    return jnp.where(jnp.abs(product) < jnp.inf, product, jnp.nan)


def normalised(x: Array, scale: Array) -> Array:
    """`x / scale`, by the reciprocal of the scale; 0 where the scale is, and where it is too small for a normal number.

    Multiplies by 1/scale. XLA rewrites x/s that way only where s is one scalar a row, so with a division the values of
    a row would depend on its batch.
    """
    small = scale < SMALLEST
    return jnp.where(small, 0.0, x * (1.0 / jnp.where(small, 1.0, scale)))
