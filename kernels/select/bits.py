"""Bit by bit: the search that the kernels share, on patterns that they hold in fast memory."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

MAGNITUDE_BITS = 31


def lowest_bit(dtype: DTypeLike) -> int:
    """Lowest bit of a float32 that values of `dtype` use."""
    return 16 if dtype == jnp.bfloat16 else 0


def patterns(x: Array) -> Array:
    """int32 that grows with |x|; NaN above infinity."""
    return lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) & jnp.int32(0x7FFFFFFF)


def largest_with(enough: Callable[[Array], Array], start: Array, bits: range) -> Array:
    """The largest number, of the given bits, that is `enough`: which 0 is, and all up to some number are."""

    def set_bit(i: Array, found: Array) -> Array:
        candidate = found | lax.shift_left(jnp.int32(1), jnp.asarray(bits[-1] - i, jnp.int32))
        return jnp.where(enough(candidate), candidate, found)

    return lax.fori_loop(0, len(bits), set_bit, start)


def position_bits(size: int) -> range:
    """Bits of a position among `size`."""
    return range(max(1, (size - 1).bit_length()))
