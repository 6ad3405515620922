"""Estimators of formats that rotate to a basis of their own (`capscale.formats.rotated`): a mask in each basis."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from capscale.estimators import STRAIGHT_THROUGH, TRUST, Estimator, needed
from capscale.formats.base import Projection
from capscale.formats.rotation import hadamard_block
from capscale.kernels.hadamard import rotate
from capscale.masks import masked


@dataclass(frozen=True)
class BothRotated:
    """Of a tensor pruned in the given basis and quantized in a rotated one, `H Q(H M x)`: a mask in each.

    The gradient is `sparse * H (grid * H g)`: that of the two steps in turn, each replaced by its mask.
    """

    sparse: Estimator = STRAIGHT_THROUGH
    grid: Estimator = TRUST

    def __call__(self, x: Array, projection: Projection) -> Array | None:
        """The mask in the given basis; that of the grid is one of rotated entries."""
        return self.sparse(x, projection)

    def residuals(self, x: Array, projection: Projection) -> "_Masks":
        """Masks of both bases."""
        inner = needed(projection.rotated, self, "a grid in a basis of its own, such as top50+rotated-int4")
        keep = needed(projection.keep, self, "sparsity")
        turned = rotate(jnp.where(keep, x, 0.0), hadamard_block(x.shape[-1]))
        return _Masks(self.sparse(x, projection), self.grid(turned, inner))

    def pull(self, residuals: "_Masks", g: Array) -> Array:
        """`sparse * H (grid * H g)`."""
        block, full = hadamard_block(g.shape[-1]), g.astype(jnp.float32)
        if residuals.grid is not None:
            full = rotate(masked(residuals.grid, rotate(full, block)), block)
        return masked(residuals.sparse, full).astype(g.dtype)


class _Masks(NamedTuple):
    """Residuals of `BothRotated`, boolean or floating; None where all pass."""

    sparse: Array | None
    grid: Array | None
