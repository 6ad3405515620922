"""One format after another: sparsify, then quantize what survived."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError

from .base import Context, Format, Projection, Scope, per_row, to_float32
from .distributions import NORMAL, Distribution, grid_error, second_moment
from .error import Error
from .optimum import optimal_clip
from .scalar import Scalar
from .scale import GAUSSIAN_RMS, Rms
from .survivors import Survival


@runtime_checkable
class Sparse(Format, Protocol):
    """A format that zeroes entries and keeps the others as they are."""

    @property
    def density(self) -> float:
        """Kept share of the values."""
        ...

    @property
    def mask_bits(self) -> float:
        """Storage bits per value that say which values are kept."""
        ...

    def survival(self, distribution: Distribution) -> Survival:
        """The law of the survivors."""
        ...


@dataclass(frozen=True)
class Then:
    """`sparse`, then `scalar` on the survivors; pruned entries stay exactly zero.

    `scales_from`: "survivors" (scales measured on what sparsity kept, and an RMS multiple left open set to the
    optimum for the survivors of Gaussian data) or "dense" (scales of the row before pruning).
    """

    sparse: Sparse
    scalar: Scalar
    scales_from: Literal["survivors", "dense"] = "survivors"

    def __post_init__(self) -> None:
        if not isinstance(self.sparse, Sparse):
            raise UserError(f"Then(sparse={self.sparse!r}): the first format must be a sparsity, such as TopK or NM")

    @property
    def bits(self) -> float:
        """Codes and scales of the survivors, and the mask."""
        return self.scalar.bits * self.sparse.density + self.sparse.mask_bits

    @property
    def scope(self) -> Scope:
        """The wider of the two."""
        return "matrix" if "matrix" in (self.sparse.scope, self.scalar.scope) else "row"

    def error(self, distribution: Distribution, samples: int | None) -> Error | None:
        """Energy of the pruned, and the grid's error on the law of the survivors, by quadrature over their cells."""
        scalar = self._scalar
        if isinstance(scalar.group, int) or samples is not None or not isinstance(scalar.scale, Rms):
            return None
        survival = self.sparse.survival(distribution)
        kept, energy = second_moment(survival)
        rms = (energy / kept) ** 0.5 if self.scales_from == "survivors" else 1.0
        levels = scalar.grid.levels * (scalar.scale.clip(scalar.grid) * rms / scalar.grid.levels[-1])
        return Error(1 - energy + grid_error(levels, survival), "quadrature")

    @property
    def _scalar(self) -> Scalar:
        """`scalar`, with a multiple of the RMS left open set to the optimum for the survivors of Gaussian data."""
        if self.scales_from == "dense" or self.scalar.scale != GAUSSIAN_RMS:
            return self.scalar
        return replace(self.scalar, scale=Rms(optimal_clip(self.scalar.grid, self.sparse.survival(NORMAL))))

    def per_row(self) -> "Then":
        """Both parts row by row."""
        return replace(self, sparse=per_row(self.sparse), scalar=self.scalar.per_row())

    def project(self, x: Array, ctx: Context) -> Projection:
        """Survivors on the scaled grid, the rest zero."""
        sparse = self.sparse.project(x, ctx)
        assert sparse.keep is not None
        if self.scales_from == "survivors":
            quantized = self._scalar.project_scaled_by(
                sparse.value, to_float32(sparse.value, "Then"), count=sparse.keep
            )
        else:
            quantized = self._scalar.project_scaled_by(sparse.value, to_float32(x, "Then"))
        assert quantized.step is not None
        assert quantized.distance is not None
        step = jnp.where(quantized.step > 0, quantized.step, 1.0)
        return Projection(
            value=jnp.where(sparse.keep, quantized.value, jnp.zeros_like(x)),
            step=quantized.step,
            distance=jnp.where(sparse.keep, quantized.distance, jnp.abs(x.astype(jnp.float32)) / step),
            radius=quantized.radius,
            keep=sparse.keep,
            threshold=sparse.threshold,
            rms=sparse.rms,
        )
