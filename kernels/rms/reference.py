"""Root mean square by integer sums: the same bits in any order of summation.

A float sum depends on its order, which changes between jit and eager, under vmap and with the sharding of the
summed axis; a scale that moves by one ulp moves values across grid boundaries. Here every square is
a fixed-point number of two limbs relative to the group's largest magnitude, and integers add exactly:

    z = x / 2^e, e the exponent of the largest magnitude;  z^2 = high 2^-B + low 2^-2B,  B = 26 - ceil(log2 width)

so that `width` limbs, each below 16 * 2^B, fit an int32. Over several rows the row sums are split into halves of
16 bits, which add exactly for up to 2^15 rows. A term is lost only where it is below 2^-2B of the largest square.
"""

from collections.abc import Callable
from math import prod

import jax.numpy as jnp
from capscale.kernels.jit_inline import jit_inline
from jax import Array, lax

LIMB = 26  # bits of an int32 that a sum of numbers below 1 may fill; z^2 stays below 16 up to the largest float32


@jit_inline(1)
def root_mean_square(x: Array, axes: tuple[int, ...] = (-1,), share: Array | None = None) -> Array:
    """RMS of float32 `x` over `axes`, the last one and at most another, kept with length 1. Not finite where x is not.

    `share`: which part of each group counts, the rest being zeros; None for all of it.
    """
    largest = largest_magnitude(x, axes)
    power, inverse = powers(largest)
    bits = limb_bits(x.shape[-1])
    # One pass over both limbs: half the time of two sums.
    highs, lows = lax.reduce(
        limbs(x, inverse, bits),
        (jnp.int32(0), jnp.int32(0)),
        lambda total, term: (total[0] + term[0], total[1] + term[1]),
        (x.ndim - 1,),
    )
    return from_sums(
        _total(highs, axes),
        _total(lows, axes),
        largest=largest,
        power=power,
        bits=bits,
        count=prod(x.shape[axis] for axis in axes),
        share=share,
    )


@jit_inline(1)
def largest_magnitude(x: Array, axes: tuple[int, ...] = (-1,)) -> Array:
    """Largest |x| of float32 `x` over `axes`, kept with length 1; 0 of nothing, NaN where there is one.

    By its bits, which order as magnitudes do, NaN above all: the maximum of floats passes over NaN on some backends.
    """
    patterns = lax.bitcast_convert_type(jnp.abs(x), jnp.int32)
    return lax.bitcast_convert_type(jnp.max(patterns, axis=axes, keepdims=True, initial=0), jnp.float32)


def limb_bits(width: int) -> int:
    """Bits B of a limb of which `width` add up in an int32."""
    return LIMB - max(width - 1, 0).bit_length()


def powers(magnitude: Array) -> tuple[Array, Array]:
    """The power of two of `magnitude`'s exponent, and its inverse; 2^-126 to 2^126, so that both are normal."""
    exponent = jnp.clip(lax.shift_right_logical(lax.bitcast_convert_type(magnitude, jnp.int32), jnp.int32(23)), 1, 253)
    power, inverse = (lax.shift_left(e, jnp.int32(23)) for e in (exponent, 254 - exponent))
    return lax.bitcast_convert_type(power, jnp.float32), lax.bitcast_convert_type(inverse, jnp.float32)


def limbs(x: Array, inverse: Array, bits: int) -> tuple[Array, Array]:
    """Both int32 limbs of `(x inverse)^2`, to be summed by the caller in any order."""
    square = jnp.square(x * inverse) * 2.0**bits
    high = jnp.round(square)
    low = jnp.round((square - high) * 2.0**bits)
    return high.astype(jnp.int32), low.astype(jnp.int32)


def from_sums(
    highs: Array,
    lows: Array,
    *,
    largest: Array,
    power: Array,
    bits: int,
    count: int,
    share: Array | None = None,
    sqrt: Callable[[Array], Array] = jnp.sqrt,
) -> Array:
    """RMS of `count` values of that largest magnitude, from the float32 sums of their limbs.

    `sqrt`: for backends that have none.
    """
    mean = (highs + lows * 2.0**-bits) * (2.0**-bits / max(count, 1))
    if share is not None:
        mean = mean / jnp.where(share > 0, share, 1.0)
    return jnp.where(largest < jnp.inf, sqrt(mean) * power, largest)


def _total(rows: Array, axes: tuple[int, ...]) -> Array:
    """Sums of the rows as float32; over several rows, exact sums of their halves first."""
    rows = rows[..., None]
    if axes == (-1,):
        return rows.astype(jnp.float32)
    upper = lax.shift_right_arithmetic(rows, jnp.int32(16))
    lower = rows - lax.shift_left(upper, jnp.int32(16))
    halves = [
        jnp.sum(half, axis=axes[:-1], keepdims=True, dtype=jnp.int32).astype(jnp.float32) for half in (upper, lower)
    ]
    return halves[0] * 65536.0 + halves[1]
