"""Root mean square by integer sums: the same bits in any order of summation.

A float sum depends on its order, which changes between jit and eager, under vmap and with the sharding of the
summed axis; a scale that moves by one ulp moves values across grid boundaries. Here every square is
a fixed-point number of two limbs relative to the group's largest magnitude, and integers add exactly:

    z = x / 2^e, e the exponent of the largest magnitude;  z^2 = high 2^-B + low 2^-2B,  B = 26 - ceil(log2 width)

so that `width` limbs, each below 16 * 2^B, fit an int32. Over several rows the row sums are split into halves of
16 bits, which add exactly for up to 2^15 rows. A term is lost only where it is below 2^-2B of the largest square.
"""

from math import prod

import jax.numpy as jnp
from jax import Array, lax

LIMB = 26  # bits of an int32 that a sum of numbers below 1 may fill; z^2 stays below 16 up to the largest float32


def root_mean_square(x: Array, axes: tuple[int, ...] = (-1,), share: Array | None = None) -> Array:
    """RMS of float32 `x` over `axes`, (-1,) or (-2, -1), kept with length 1. Not finite where `x` is not.

    `share`: which part of each group counts, the rest being zeros; None for all of it.
    """
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0.0)
    power, inverse = _powers(largest)
    bits = LIMB - max(x.shape[-1] - 1, 0).bit_length()
    square = jnp.square(x * inverse) * 2.0**bits
    high = jnp.round(square)
    low = jnp.round((square - high) * 2.0**bits)
    # One pass over both limbs: half the time of two sums.
    highs, lows = lax.reduce(
        (high.astype(jnp.int32), low.astype(jnp.int32)),
        (jnp.int32(0), jnp.int32(0)),
        lambda total, term: (total[0] + term[0], total[1] + term[1]),
        (x.ndim - 1,),
    )
    mean = (_total(highs, axes) + _total(lows, axes) * 2.0**-bits) * (
        2.0**-bits / max(prod(x.shape[axis] for axis in axes), 1)
    )
    if share is not None:
        mean = mean / jnp.where(share > 0, share, 1.0)
    return jnp.where(jnp.isfinite(largest), jnp.sqrt(mean) * power, largest)


def _powers(magnitude: Array) -> tuple[Array, Array]:
    """The power of two of `magnitude`'s exponent, and its inverse; 2^-126 to 2^126, so that both are normal."""
    exponent = jnp.clip(lax.shift_right_logical(lax.bitcast_convert_type(magnitude, jnp.int32), 23), 1, 253)
    power, inverse = lax.shift_left(exponent, 23), lax.shift_left(254 - exponent, 23)
    return lax.bitcast_convert_type(power, jnp.float32), lax.bitcast_convert_type(inverse, jnp.float32)


def _total(rows: Array, axes: tuple[int, ...]) -> Array:
    """Sums of the rows as float32; over several rows, exact sums of their halves first."""
    rows = rows[..., None]
    if axes == (-1,):
        return rows.astype(jnp.float32)
    upper = lax.shift_right_arithmetic(rows, 16)
    lower = rows - lax.shift_left(upper, 16)
    halves = [jnp.sum(half, axis=-2, keepdims=True, dtype=jnp.int32).astype(jnp.float32) for half in (upper, lower)]
    return halves[0] * 65536.0 + halves[1]
