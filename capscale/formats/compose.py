"""One format after another: sparsify, then quantize what survived."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.kernels.project import Spec, Unsupported

from .base import Context, Granularity, Projection, per_row
from .capabilities import kernel_spec
from .distributions import NORMAL, Distribution, grid_error, second_moment
from .mse import Mse
from .optimum import optimal_clip
from .rounding import Rounding, refuse_alone
from .scalar import Scalar
from .scale import GAUSSIAN_RMS, Rms
from .sparse import Sparse, run_of
from .storage import Codes, Field, Shape


@dataclass(frozen=True)
class SparseQuantized:
    """`sparse`, then `rounding` on the survivors, values or whole vectors; pruned entries stay exactly zero.

    `scales_from`: "survivors" (scales measured on what sparsity kept, and an RMS multiple left open set to the
    optimum for the survivors of Gaussian data) or "dense" (scales of the row before pruning).
    """

    JSON_NAME: ClassVar[str] = "Then"
    JSON_FIELDS: ClassVar[Mapping[str, str]] = {"rounding": "scalar"}

    sparse: Sparse
    rounding: Rounding
    scales_from: Literal["survivors", "dense"] = "survivors"

    def __post_init__(self) -> None:
        if not isinstance(self.sparse, Sparse):
            raise UserError(
                f"SparseQuantized(sparse={self.sparse!r}): the first format must be a sparsity, such as TopK"
            )
        if not isinstance(self.rounding, Rounding) or self.rounding.learns:
            raise UserError(
                f"SparseQuantized(rounding={self.rounding!r}): the second must be a Scalar or a Vector with measured "
                "scales"
            )
        if isinstance(self.rounding, Scalar):
            refuse_alone(self.rounding, self)
        if run_of(self.sparse) % self.rounding.run:
            raise UserError(
                f"SparseQuantized({self.sparse!r}, {self.rounding!r}): vectors of {self.rounding.run} values must stay "
                f"or go whole; use a sparsity whose unit they divide, such as TopK(unit={self.rounding.run})"
            )
        if self.scales_from not in ("survivors", "dense"):
            raise UserError(f"SparseQuantized(scales_from={self.scales_from!r}): use 'survivors' or 'dense'")

    @property
    def bits(self) -> float:
        """Codes of the survivors, scales, and the mask."""
        codes = float(np.log2(self.rounding.codes)) / self.rounding.run
        return codes * self.sparse.density + (self.rounding.bits - codes) + self.sparse.mask_bits

    @property
    def granularity(self) -> Granularity:
        """The wider of the two."""
        return "matrix" if "matrix" in (self.sparse.granularity, self.rounding.granularity) else "row"

    def per_row(self) -> "SparseQuantized":
        """Both parts row by row."""
        sparse = per_row(self.sparse)
        rounding = per_row(self.rounding)
        assert isinstance(sparse, Sparse)
        assert isinstance(rounding, Rounding)
        return replace(self, sparse=sparse, rounding=rounding)

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """Energy of the pruned, and the grid's error on the law of the survivors, by quadrature over their cells."""
        scalar, survival = self.fitted, self.sparse.survival(distribution)
        if not isinstance(scalar, Scalar) or not isinstance(scalar.scale, Rms):
            return None
        if scalar.groups.values is not None or samples is not None:
            return None
        if survival is None:
            return None
        kept, energy = second_moment(survival)
        rms = (energy / kept) ** 0.5 if self.scales_from == "survivors" else 1.0
        levels = scalar.grid.levels * (scalar.scale.clip(scalar.grid) * rms / scalar.grid.levels[-1])
        return Mse(1 - energy + grid_error(levels, survival), "quadrature")

    @property
    def fitted(self) -> Rounding:
        """`rounding`, with a multiple of the RMS left open set to the optimum for the survivors of Gaussian data."""
        law = self.sparse.survival(NORMAL)
        rounding = self.rounding
        if not isinstance(rounding, Scalar) or rounding.scale != GAUSSIAN_RMS:
            return rounding
        if self.scales_from == "dense" or law is None:
            return rounding
        return replace(rounding, scale=Rms(optimal_clip(rounding.grid, law)))

    def _measure(self, x: Array, kept: Array, keep: Array, ctx: Context) -> tuple[Array, ...]:
        dense = self.scales_from == "dense"
        return self.fitted.measure(x if dense else kept, ctx, None if dense else keep)

    def project(self, x: Array, ctx: Context) -> Projection:
        """Survivors on the scaled grid or codebook, the rest zero."""
        sparse = self.sparse.project(x, ctx)
        assert sparse.keep is not None
        quantized = self.fitted.project_by(self._measure(x, sparse.value, sparse.keep, ctx), x, sparse.keep)
        return quantized._replace(threshold=sparse.threshold, rms=sparse.rms)

    def kernel_spec(self) -> Spec | Unsupported:
        """The pattern, and the grid on its survivors."""
        sparse, rounding = kernel_spec(self.sparse), kernel_spec(self.fitted)
        if isinstance(sparse, Unsupported) or isinstance(rounding, Unsupported):
            return sparse if isinstance(sparse, Unsupported) else rounding
        if rounding.codebook is not None:
            return Unsupported("a codebook on survivors of a pattern is left to XLA")
        assert sparse.pattern is not None
        return replace(rounding, pattern=replace(sparse.pattern, dense_scales=self.scales_from == "dense"))

    def kernel_given(self, x: Array, ctx: Context) -> Array:
        """As `Scalar.kernel_given`, of the survivors or of the dense row."""
        sparse, fitted = self.sparse.project(x, ctx), self.fitted
        assert isinstance(fitted, Scalar)  # others have no kernel on survivors
        dense = self.scales_from == "dense"
        return fitted.kernel_given(x if dense else sparse.value, ctx, None if dense else sparse.keep)

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Mask, codes of the survivors, scales."""
        codes = Field("codes", self.sparse.survivors(shape) // self.rounding.run, self.rounding.codes)
        return self.sparse.mask_layout(shape), codes, *self.rounding.scale_layout(shape)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Mask, codes of the survivors, scales."""
        kept, coded, parts = self._coded(x, ctx)
        keep = np.asarray(kept)
        codes = np.asarray(coded)[keep[..., :: self.rounding.run]]
        return {"mask": self.sparse.encode_mask(keep), "codes": codes, **self.fitted.store_scales(parts)}

    @partial(jax.jit, static_argnums=0)
    def _coded(self, x: Array, ctx: Context) -> tuple[Array, Array, tuple[Array, ...]]:
        sparse = self.sparse.project(x, ctx)
        assert sparse.keep is not None
        parts = self._measure(x, sparse.value, sparse.keep, ctx)
        return sparse.keep, self.fitted.codes_of(sparse.value, parts), parts

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Levels times scales where the mask is set, zero elsewhere."""
        keep = self.sparse.decode_mask(codes["mask"], shape).astype(bool)
        of_runs = keep[..., :: self.rounding.run]
        full = np.zeros(of_runs.shape, np.uint32)
        full[of_runs] = codes["codes"]
        value = self.fitted.values_of(jnp.asarray(full), self.fitted.load_scales(codes, shape), dtype)
        return jnp.where(jnp.asarray(keep), value, jnp.zeros(shape, dtype))
