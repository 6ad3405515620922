"""Sparsity in the given basis, quantization in a rotated one: the other order of mask and rotation."""

from dataclasses import dataclass
from functools import partial

import jax
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.kernels.hadamard import rotate
from capscale.kernels.project import Unsupported

from .base import Context, Projection
from .compose import SparseQuantized
from .distributions import Distribution
from .mse import Mse
from .rotation import hadamard_block
from .scalar import Scalar
from .storage import Codes, Field, Shape


@dataclass(frozen=True)
class ThenRotated(SparseQuantized):
    """`sparse` in the given basis; `rounding` on the survivors rotated, `H Q(H M x)`.

    Rotated like `Representation(hadamard=128)`: in blocks of the largest power of two up to 128 that divides the row.
    `SparseQuantized` under a rotation is the other order, `H Q(M H x)`. The error of the grid spreads over pruned
    entries too: they are zero no more, every value is stored as a code, and no mask is. Scales are those of rotated
    survivors.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rounding, Scalar):
            raise UserError(f"ThenRotated(rounding={self.rounding!r}): the second must be a Scalar")
        if self.scales_from != "survivors":
            raise UserError(f"ThenRotated(scales_from={self.scales_from!r}): use 'survivors', as scales are theirs")

    @property
    def scalar(self) -> Scalar:
        """`rounding`, which is a scalar format."""
        assert isinstance(self.rounding, Scalar)
        return self.rounding

    @property
    def bits(self) -> float:
        """Those of `rounding`: a code for every value, and no mask."""
        return self.scalar.bits

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """None: rotated survivors are Gaussian only in the limit of large blocks, so the error is measured."""
        return None

    @property
    def fitted(self) -> Scalar:
        """`rounding` as it is: rotated survivors are close to Gaussian."""
        return self.scalar

    def project(self, x: Array, ctx: Context) -> Projection:
        """Survivors on the grid of the rotated basis, rotated back; `keep` in the given one, the grid in `rotated`."""
        sparse = self.sparse.project(x, ctx)
        block = hadamard_block(x.shape[-1])
        quantized = self.scalar.project(rotate(sparse.value, block), ctx)
        return Projection(
            value=rotate(quantized.value, block),
            keep=sparse.keep,
            threshold=sparse.threshold,
            rms=sparse.rms,
            rotated=quantized,
        )

    def kernel_spec(self) -> Unsupported:
        """None: kernels rotate before they prune, not between."""
        return Unsupported("a rotation between pruning and the grid is left to XLA")

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Codes of all values in the rotated basis, scales."""
        return self.scalar.layout(shape, dtype)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of all values in the rotated basis, scales."""
        return self.scalar.store(self._turned(x, ctx), ctx)

    @partial(jax.jit, static_argnums=0)
    def _turned(self, x: Array, ctx: Context) -> Array:
        return rotate(self.sparse.project(x, ctx).value, hadamard_block(x.shape[-1]))

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Levels times scales, rotated back."""
        return rotate(self.scalar.load(codes, shape, dtype), hadamard_block(shape[-1]))
