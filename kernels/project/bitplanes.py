"""Numbers of a few bits as bytes, in runs that lie over each other.

Numbers of 1, 2, 4 or 8 bits, `n = 8 / bits` a byte: bits `b bits` to `(b + 1) bits - 1` of byte w of a row of K are
those of column `b W + w`, W = 128 ceil(K / (128 n)) bytes a row, and 0 beyond K. Aligned runs of whole vector registers
lie over each other, so that no lane has to move to be packed.
"""

import jax.numpy as jnp
from jax import Array

from ..jit_inline import jit_inline

LANES = 128  # of a TPU's vector register


def plane_bytes(width: int, bits: int) -> int:
    """W: bytes of a row of `width` numbers."""
    return LANES * -(-width * bits // (8 * LANES))


@jit_inline(1)
def pack(numbers_RK: Array, bits: int) -> Array:
    """Integers or booleans (..., K) below 2^bits as bytes (..., W)."""
    width, per = plane_bytes(numbers_RK.shape[-1], bits), 8 // bits
    missing = per * width - numbers_RK.shape[-1]
    padded = jnp.pad(numbers_RK, [(0, 0)] * (numbers_RK.ndim - 1) + [(0, missing)])
    planes = padded.reshape(*numbers_RK.shape[:-1], per, width).astype(jnp.uint8)
    return jnp.sum(jnp.left_shift(planes, _shifts(bits, planes.ndim)), axis=-2, dtype=jnp.uint8)


@jit_inline(1, 2)
def unpack(words_RW: Array, width: int, bits: int) -> Array:
    """Inverse of `pack` for rows of `width` numbers: uint8 (..., K)."""
    planes = jnp.right_shift(words_RW[..., None, :], _shifts(bits, words_RW.ndim + 1)) & jnp.uint8(2**bits - 1)
    return planes.reshape(*words_RW.shape[:-1], planes.shape[-2] * planes.shape[-1])[..., :width]


def _shifts(bits: int, rank: int) -> Array:
    """First bit of each run, against (..., n, W)."""
    return (bits * jnp.arange(8 // bits, dtype=jnp.uint8)).reshape((1,) * (rank - 2) + (8 // bits, 1))
