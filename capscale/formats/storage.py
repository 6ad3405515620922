"""Storage of a format: named fields of codes, each code a number below a radix.

`log2(radix)` bits a code is what `bits` counts and what `capscale.formats.packing` writes.
"""

from math import log2, prod
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from numpy.typing import NDArray

from .base import Context, Format

Codes = NDArray[np.uint32]
Shape = tuple[int, ...]


class Field(NamedTuple):
    """`size` codes, each below `radix`."""

    name: str
    size: int
    radix: int


@runtime_checkable
class Storable(Format, Protocol):
    """A format that writes a tensor as codes and reads it back."""

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Every field that a tensor of this shape takes; nothing else is stored."""
        ...

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of `project(x, ctx)`, by field name."""
        ...

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """`project(x, ctx).value` again, bit for bit."""
        ...


def storage_bits(format: Storable, shape: Shape, dtype: DTypeLike = jnp.bfloat16) -> float:
    """Bits per value of a tensor of this shape, everything counted; `format.bits` is its limit for large bfloat16."""
    return sum(field.size * log2(field.radix) for field in format.layout(shape, dtype)) / prod(shape)


def value_bits(dtype: DTypeLike) -> int:
    """Bits of one uncompressed value."""
    return 8 * jnp.dtype(dtype).itemsize


def value_codes(x: Array | NDArray) -> Codes:
    """Bit patterns of 16- or 32-bit floats, in row-major order."""
    raw = np.asarray(x).reshape(-1)
    return raw.view(np.uint16 if raw.dtype.itemsize == 2 else np.uint32).astype(np.uint32)


def codes_value(codes: Codes, dtype: DTypeLike) -> NDArray:
    """Inverse of `value_codes`, flat."""
    return codes.astype(np.uint16 if value_bits(dtype) == 16 else np.uint32).view(jnp.dtype(dtype))


def rows_of(shape: Shape) -> int:
    """How many rows (last axes) a tensor has."""
    return prod(shape[:-1])


def matrices_of(shape: Shape) -> int:
    """How many matrices (last two axes) a tensor has."""
    return prod(shape[:-2])
