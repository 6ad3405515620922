"""Gradient masks as bits, a bit a value as `bitplanes` lays them out: bit b of byte w of a row is column `b W + w`."""

from jax import Array

from .bitplanes import pack, plane_bytes, unpack


def mask_bytes(width: int) -> int:
    """W: bytes of the mask of a row of `width` values."""
    return plane_bytes(width, 1)


def pack_mask(mask_RK: Array) -> Array:
    """Booleans (..., K) as bytes (..., W); bits beyond K are 0."""
    return pack(mask_RK, 1)


def unpack_mask(words_RW: Array, width: int) -> Array:
    """Inverse of `pack_mask` for rows of `width` values."""
    return unpack(words_RW, width, 1) != 0
