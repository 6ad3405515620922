"""Bytes of a strip of rows as they are gathered on a TPU: turned, four to a word of scratch, then written to the rows.

Byte w of a row, w < W, is that of `bitplanes`: tile c of the row has its numbers in word `c % (W / 128)` of 128 bytes.
"""

from functools import reduce
from operator import or_
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from ..bitplanes import LANES
from .rows import run_of

_PER = 4  # bytes of a word of scratch
_BITS = 8


def scratch_rows(count: int) -> int:
    """Rows of scratch for so many bytes a row."""
    return LANES * pl.cdiv(count, _PER * LANES)


def lowest_bit(c: Any, count: int, bits: int) -> Array:
    """Where in their words of scratch numbers of `bits` bits of tile c begin, of `count` bytes a row."""
    words = count // LANES
    return bits * lax.div(c, words) + _BITS * lax.rem(lax.rem(c, words), _PER)


def add(turned: Any, tiles: list[Any], numbers: list[Array], count: int) -> None:
    """Adds the numbers of several tiles, (128, R) int32, moved up to their `lowest_bit`, to scratch."""
    words = count // LANES
    if words <= _PER:  # all meet in the same words, and registers are faster than memory
        tiles, numbers = tiles[:1], [reduce(or_, numbers)]
    for c, number in zip(tiles, numbers, strict=True):
        rows = run_of(lax.div(lax.rem(c, words), _PER)) if words > _PER else slice(None)
        turned[rows, :] = turned[rows, :] | number


def write(turned: Any, out: Any, here: Any) -> None:
    """Writes the bytes of a strip to its rows of `out`."""
    words = out.shape[1] // LANES
    for block in range(pl.cdiv(words, _PER)):
        four = turned[block * LANES : (block + 1) * LANES, :].T
        for byte in range(min(words - block * _PER, _PER)):
            begin = (block * _PER + byte) * LANES
            one = lax.shift_right_logical(four, jnp.full(four.shape, _BITS * byte, jnp.int32)) & (2**_BITS - 1)
            out[here, begin : begin + LANES] = one.astype(jnp.uint8)
