"""The stage that rounds: values one by one, or runs of neighbours together, in units of measured scales."""

from typing import Protocol, runtime_checkable

from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError

from .base import Context, Format, Projection
from .scalar import Parts, Scalar
from .scale_rule import Chooses
from .storage import Codes, Field, Shape


@runtime_checkable
class Rounding(Format, Protocol):
    """A format that measures scales, and rounds to a grid or a codebook in units of them: `Scalar`, `Vector`.

    Other stages stand before it: a sparsity (`SparseQuantized`), or values that are kept apart (`Outliers`).
    """

    @property
    def run(self) -> int:
        """Neighbours of a row that one code stands for."""
        ...

    @property
    def codes(self) -> int:
        """How many codes there are."""
        ...

    @property
    def learns(self) -> bool:
        """Whether its scales are learnable parameters."""
        ...

    def measure(self, x: Array, ctx: Context, counted: Array | None = None) -> Parts:
        """Scales of `x`. `counted`: boolean, the entries that an RMS is taken over, the others being 0; None: all."""
        ...

    def project_by(self, parts: Parts, x: Array, keep: Array | None = None) -> Projection:
        """Nearest representable values at given scales. `keep`: boolean, whole runs of it; the rest is zero."""
        ...

    def codes_of(self, x: Array, parts: Parts) -> Array:
        """Code of every run, (..., K / run)."""
        ...

    def values_of(self, codes: Array, parts: Parts, dtype: DTypeLike) -> Array:
        """Values of codes (..., K / run), as (..., K): inverse of `codes_of`."""
        ...

    def scale_layout(self, shape: Shape) -> tuple[Field, ...]:
        """The stored parts of the scales."""
        ...

    def store_scales(self, parts: Parts) -> dict[str, Codes]:
        """Codes of the parts, by field name."""
        ...

    def load_scales(self, codes: dict[str, Codes], shape: Shape) -> Parts:
        """Scales of the codes, the inverse of `store_scales`."""
        ...


def refuse_alone(scalar: Scalar, where: object) -> None:
    """Raises UserError for a scalar format that is more than a grid and scales, where nothing else is asked of it."""
    if scalar.draws:
        raise UserError(
            f"{where}: only a Scalar by itself rounds stochastically; use {getattr(scalar.grid, 'grid', scalar.grid)} "
            "with scales that are not drawn"
        )
    if isinstance(scalar.scale, Chooses):
        raise UserError(f"{where}: only a Scalar by itself chooses levels by other scales than it stores; use another")
