"""The format that changes nothing."""

from dataclasses import dataclass

from jax import Array

from .base import Context, Projection, Scope
from .distributions import Distribution
from .error import Error


@dataclass(frozen=True)
class Dense:
    """Uncompressed: `value = x`. 16 bits per value, the bfloat16 that models compute in."""

    @property
    def bits(self) -> float:
        """bfloat16."""
        return 16.0

    @property
    def scope(self) -> Scope:
        """Rows."""
        return "row"

    def project(self, x: Array, ctx: Context) -> Projection:
        """`x` itself."""
        return Projection(x)

    def error(self, distribution: Distribution, samples: int | None) -> Error:
        """Zero."""
        return Error(0.0, "exact")


UNCOMPRESSED = Dense()
