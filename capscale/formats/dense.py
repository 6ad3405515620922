"""The format that changes nothing."""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from .base import Context, Granularity, Projection
from .distributions import Distribution
from .mse import Mse
from .storage import Codes, Field, Shape, codes_value, value_bits, value_codes


@dataclass(frozen=True)
class Dense:
    """Uncompressed: `value = x`. 16 bits per value, the bfloat16 that models compute in."""

    @property
    def bits(self) -> float:
        """Sixteen, those of bfloat16."""
        return 16.0

    @property
    def granularity(self) -> Granularity:
        """Rows: a value depends on itself alone."""
        return "row"

    def project(self, x: Array, ctx: Context) -> Projection:
        """The tensor `x` itself."""
        return Projection(x)

    def error(self, distribution: Distribution, samples: int | None) -> Mse:
        """Zero: nothing is rounded."""
        return Mse(0.0, "exact")

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """One field: the values' bit patterns."""
        return (Field("values", prod(shape), 2 ** value_bits(dtype)),)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Bit patterns of the values."""
        return {"values": value_codes(x)}

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Values of the bit patterns."""
        return jnp.asarray(codes_value(codes["values"], dtype).reshape(shape))


UNCOMPRESSED = Dense()
