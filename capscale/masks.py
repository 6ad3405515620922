"""Backward masks of projections: booleans, where the gradient passes, or floating numbers that multiply it."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.formats.base import Projection
from capscale.kernels.rounding import rounded_to


@runtime_checkable
class Pulls(Protocol):
    """An estimator whose gradient is more than a mask times the incoming one."""

    def residuals(self, x: Array, projection: Projection) -> Any:
        """Arrays that `pull` needs, from float32 `x` and its projection: a pytree."""
        ...

    def pull(self, residuals: Any, g: Array) -> Array:
        """Gradient with respect to x, from that with respect to the value, of its shape and dtype."""
        ...


def checked_mask(mask: Array | None, estimator: Any) -> Array | None:
    """`mask`, which is boolean, floating or None. Raises UserError for other dtypes, whose meaning would be a guess."""
    if mask is None or mask.dtype == jnp.bool or jnp.issubdtype(mask.dtype, jnp.floating):
        return mask
    raise UserError(f"{estimator} gives a mask of {mask.dtype}; return booleans, or floats that multiply the gradient")


def masked(mask: Array | None, g: Array) -> Array:
    """`mask * g` in the dtype of g: zero where a boolean mask is False, whatever g is there; times a floating one."""
    if mask is None:
        return g
    if mask.dtype == jnp.bool:
        return jnp.where(mask, g, jnp.zeros_like(g))
    return rounded_to(mask.astype(jnp.float32) * g.astype(jnp.float32), g.dtype)


def conjunction(a: Array | None, b: Array | None) -> Array | None:
    """The mask of both: their product, which of booleans is where both are True."""
    if a is None or b is None:
        return b if a is None else a
    if a.dtype == b.dtype == jnp.bool:
        return a & b
    return _factors(a) * _factors(b)


def _factors(mask: Array) -> Array:
    return jnp.where(mask, 1.0, 0.0) if mask.dtype == jnp.bool else mask.astype(jnp.float32)
