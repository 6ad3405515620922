"""Codes and scales that the projection on a TPU writes beside its values, as products of codes read them.

    level    (128, R) float32 of a tile --> whole number in the low bits of int32 --> turned back, a byte of each
    codes    (R, K) int8                                  <----------------------------------------------'
    scale    (1, 8, R) of a strip's rows --> one of its 8 rows
    scales   (strips, 1, R) float32                       <--'

Rows are in one scale each, and codes take the place of nothing: they are one result more of the same pass.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from ...matmul.codes import Multiplicand, Steps
from ..codes import without_codes
from ..spec import Spec
from . import columns
from .calls import block_of_rows
from .tiles import SPILLED, SUBLANES, VMEM, Extra, Memory, Tile, vmem_bytes


def unsupported(spec: Spec, width: int, dtype: DTypeLike) -> str | None:
    """Why the projection of such rows writes no codes, or None where it does."""
    if (reason := without_codes(spec)) is not None:
        return reason
    assert spec.scale is not None
    if spec.group is not None:
        return f"rows have {width // spec.group} scales"
    if spec.scale.given:
        return "scales that are given, which need not tell of a NaN, are left to the kernel that encodes"
    if spec.back:
        return "values are rotated back, and their codes are not"
    if vmem_bytes(Tile(SUBLANES, SUBLANES), width, dtype, Extra(coded=True)) + SPILLED > VMEM:
        return f"{SUBLANES} rows of {width} values and their codes do not fit into {VMEM >> 20} MiB"
    return None


def shapes(rows: int, width: int, tile: Tile) -> list[jax.ShapeDtypeStruct]:
    """Results: codes, and the scales of whole blocks, a strip's together."""
    strips = pl.cdiv(rows, tile.rows) * (tile.rows // tile.inner)
    return [jax.ShapeDtypeStruct((rows, width), jnp.int8), jax.ShapeDtypeStruct((strips, 1, tile.inner), jnp.float32)]


def blocks(memory: Memory, width: int, tile: Tile) -> list[pl.BlockSpec]:
    """Blocks of the results."""
    return [
        block_of_rows(memory, width),
        pl.BlockSpec((tile.rows // tile.inner, 1, tile.inner), lambda i: (i, 0, 0)),
    ]


def multiplicand(codes: Array, scales: Array) -> Multiplicand:
    """The results as products of codes read them."""
    return Multiplicand(codes, scales.reshape(scales.size, 1)[: codes.shape[0]])


def code(zero: Array, level: Array, steps: Steps) -> Array:
    """Codes (R, 128) int8 of the levels of a tile, (128, R); of those that are NaN, anything.

    A level is a whole number of steps, however its product with their reciprocal is rounded.
    """
    per_unit, first = 1 / (steps.unit * steps.factor), steps.offset / steps.factor
    number = level if per_unit == 1 else level * jnp.float32(per_unit)
    number = number - jnp.float32(first) if first else number
    return columns.whole_in_low_bits(zero, number).T.astype(jnp.int8)


def keep_scale(ref: Any, strip: Any, scale: Array) -> None:
    """Writes the scales of a strip, (1, 8, R): NaN where anything that one scales is not finite."""
    row = scale[0, :1]
    ref[strip] = jnp.where(jnp.abs(row) < jnp.inf, row, jnp.nan)
