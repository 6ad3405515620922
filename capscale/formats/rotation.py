"""Rotations of rows: how long Hadamard blocks are for a width, and random signs ahead of them."""

from functools import cache
from hashlib import shake_256

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.kernels.hadamard import BASES, rotate

LARGEST_BLOCK = 128  # QuEST, arXiv 2502.05003


def hadamard_block(width: int, largest: int = LARGEST_BLOCK) -> int:
    """Largest block up to `largest` that divides `width`; UserError for widths without one.

    A power of two; where `largest` is 12, 20, 28 or 36 times one, such a product too.
    """
    bases = (1,) if largest.bit_count() == 1 else (1, *BASES)
    powers = (base << k for base in bases for k in range(largest.bit_length()))
    blocks = [block for block in powers if 1 < block <= largest and width % block == 0]
    if not blocks:
        raise UserError(
            f"width {width} is odd, so no Hadamard block of 2 or more divides it; use a width that a power of two "
            f"divides, such as {width + 1}, or hadamard=None"
        )
    return max(blocks)


def turned(x: Array, block: int | None, signs: int | None, axis: int = -1) -> Array:
    """Rows along `axis` times random signs of this seed, then rotated; as they are where `block` is None.

    Random signs make every rotated value of any fixed input a sum of random terms (QuIP#, arXiv 2402.04396): without
    them an input along a row of the matrix becomes a single large value.
    """
    return x if block is None else rotate(signs_flipped(x, signs, axis), block, axis)


def turned_back(x: Array, block: int | None, signs: int | None, axis: int = -1) -> Array:
    """Undoes `turned`: signs and rotation are inverses of themselves."""
    return x if block is None else signs_flipped(rotate(x, block, axis), signs, axis)


def signs_flipped(x: Array, seed: int | None, axis: int = -1) -> Array:
    """Rows along `axis` times ±1 of `random_signs`, which is exact; as they are without a seed."""
    if seed is None:
        return x
    width, axis = x.shape[axis], axis % x.ndim
    shape = tuple(width if i == axis else 1 for i in range(x.ndim))
    return x * jnp.asarray(random_signs(seed, width), x.dtype).reshape(shape)


@cache
def random_signs(seed: int, width: int) -> tuple[int, ...]:
    """±1 for every place of a row, a function of both: the bits of SHAKE-256, which no version of a library changes."""
    bits = int.from_bytes(shake_256(f"signs {seed} of {width}".encode()).digest(-(-width // 8)), "little")
    return tuple(1 - 2 * (bits >> place & 1) for place in range(width))
