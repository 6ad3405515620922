"""Gradient masks as bits.

Bit b of byte w of a row of K values is column `b W + w`, W = 128 ceil(K / 1024) bytes a row: eight aligned
runs of whole vector registers lie over each other, so that no lane has to move to be packed.
"""

import jax.numpy as jnp
from jax import Array

LANES = 128  # of a TPU's vector register


def mask_bytes(width: int) -> int:
    """W: bytes of the mask of a row of `width` values."""
    return LANES * -(-width // (8 * LANES))


def pack_mask(mask_RK: Array) -> Array:
    """Booleans (..., K) as bytes (..., W); bits beyond K are 0."""
    width = mask_bytes(mask_RK.shape[-1])
    missing = 8 * width - mask_RK.shape[-1]
    padded = jnp.pad(mask_RK, [(0, 0)] * (mask_RK.ndim - 1) + [(0, missing)])
    bits = padded.reshape(*mask_RK.shape[:-1], 8, width).astype(jnp.uint8)
    weights = jnp.left_shift(jnp.uint8(1), jnp.arange(8, dtype=jnp.uint8)).reshape((1,) * (bits.ndim - 2) + (8, 1))
    return jnp.sum(bits * weights, axis=-2, dtype=jnp.uint8)


def unpack_mask(words_RW: Array, width: int) -> Array:
    """Inverse of `pack_mask` for rows of `width` values."""
    shifts = jnp.arange(8, dtype=jnp.uint8).reshape((1,) * (words_RW.ndim - 1) + (8, 1))
    bits = jnp.right_shift(words_RW[..., None, :], shifts) & jnp.uint8(1)
    return bits.reshape(*words_RW.shape[:-1], 8 * words_RW.shape[-1])[..., :width] != 0
