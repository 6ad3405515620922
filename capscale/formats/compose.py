"""One format after another: sparsify, then quantize what survived."""

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
from .scalar import Scalar, refuse_alone
from .scale import GAUSSIAN_RMS, Learned, Rms
from .sparse import Sparse
from .storage import Codes, Field, Shape


@dataclass(frozen=True)
class SparseQuantized:
    """`sparse`, then `scalar` on the survivors; pruned entries stay exactly zero.

    `scales_from`: "survivors" (scales measured on what sparsity kept, and an RMS multiple left open set to the
    optimum for the survivors of Gaussian data) or "dense" (scales of the row before pruning).
    """

    JSON_NAME: ClassVar[str] = "Then"

    sparse: Sparse
    scalar: Scalar
    scales_from: Literal["survivors", "dense"] = "survivors"

    def __post_init__(self) -> None:
        if not isinstance(self.sparse, Sparse):
            raise UserError(
                f"SparseQuantized(sparse={self.sparse!r}): the first format must be a sparsity, such as TopK"
            )
        if not isinstance(self.scalar, Scalar) or isinstance(self.scalar.scale, Learned):
            raise UserError(
                f"SparseQuantized(scalar={self.scalar!r}): the second must be a Scalar with measured scales"
            )
        refuse_alone(self.scalar, self)
        if self.scales_from not in ("survivors", "dense"):
            raise UserError(f"SparseQuantized(scales_from={self.scales_from!r}): use 'survivors' or 'dense'")

    @property
    def bits(self) -> float:
        """Codes of the survivors, scales, and the mask."""
        shared = self.scalar.bits - np.log2(self.scalar.grid.codes)
        return float(np.log2(self.scalar.grid.codes)) * self.sparse.density + float(shared) + self.sparse.mask_bits

    @property
    def granularity(self) -> Granularity:
        """The wider of the two."""
        return "matrix" if "matrix" in (self.sparse.granularity, self.scalar.granularity) else "row"

    def per_row(self) -> "SparseQuantized":
        """Both parts row by row."""
        sparse = per_row(self.sparse)
        assert isinstance(sparse, Sparse)
        return replace(self, sparse=sparse, scalar=self.scalar.per_row())

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """Energy of the pruned, and the grid's error on the law of the survivors, by quadrature over their cells."""
        scalar, survival = self.fitted, self.sparse.survival(distribution)
        if scalar.groups.values is not None or samples is not None or not isinstance(scalar.scale, Rms):
            return None
        if survival is None:
            return None
        kept, energy = second_moment(survival)
        rms = (energy / kept) ** 0.5 if self.scales_from == "survivors" else 1.0
        levels = scalar.grid.levels * (scalar.scale.clip(scalar.grid) * rms / scalar.grid.levels[-1])
        return Mse(1 - energy + grid_error(levels, survival), "quadrature")

    @property
    def fitted(self) -> Scalar:
        """`scalar`, with a multiple of the RMS left open set to the optimum for the survivors of Gaussian data."""
        law = self.sparse.survival(NORMAL)
        if self.scales_from == "dense" or self.scalar.scale != GAUSSIAN_RMS or law is None:
            return self.scalar
        return replace(self.scalar, scale=Rms(optimal_clip(self.scalar.grid, law)))

    def _measure(self, x: Array, kept: Array, keep: Array, ctx: Context) -> tuple[Array, ...]:
        dense = self.scales_from == "dense"
        return self.fitted.measure(x if dense else kept, ctx, None if dense else keep)

    def project(self, x: Array, ctx: Context) -> Projection:
        """Survivors on the scaled grid, the rest zero."""
        sparse = self.sparse.project(x, ctx)
        assert sparse.keep is not None
        quantized = self.fitted.project_by(self._measure(x, sparse.value, sparse.keep, ctx), x, sparse.keep)
        return quantized._replace(threshold=sparse.threshold, rms=sparse.rms)

    def kernel_spec(self) -> Spec | Unsupported:
        """The pattern, and the grid on its survivors."""
        sparse, scalar = kernel_spec(self.sparse), self.fitted.kernel_spec()
        if isinstance(sparse, Unsupported) or isinstance(scalar, Unsupported):
            return sparse if isinstance(sparse, Unsupported) else scalar
        assert sparse.pattern is not None
        return replace(scalar, pattern=replace(sparse.pattern, dense_scales=self.scales_from == "dense"))

    def kernel_given(self, x: Array, ctx: Context) -> Array:
        """As `Scalar.kernel_given`, of the survivors or of the dense row."""
        sparse = self.sparse.project(x, ctx)
        dense = self.scales_from == "dense"
        return self.fitted.kernel_given(x if dense else sparse.value, ctx, None if dense else sparse.keep)

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Mask, codes of the survivors, scales."""
        codes = Field("codes", self.sparse.survivors(shape), self.scalar.grid.codes)
        return self.sparse.mask_layout(shape), codes, *self.scalar.scale_layout(shape)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Mask, codes of the survivors, scales."""
        kept, coded, parts = self._coded(x, ctx)
        keep = np.asarray(kept)
        codes = np.asarray(coded)[keep]
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
        full = np.zeros(shape, np.uint32)
        full[keep] = codes["codes"]
        value = self.fitted.values_of(jnp.asarray(full), self.fitted.load_scales(codes, shape), dtype)
        return jnp.where(jnp.asarray(keep), value, jnp.zeros(shape, dtype))
