"""Projection: the nearest representable rows, and what is measured on the way; and the elementwise steps.

Every backend and every format computes these very functions, on whole tensors or on the blocks of a kernel.
"""

from collections.abc import Callable
from operator import truediv
from typing import Any, NamedTuple, Union

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from ..renamed import old_attribute
from ..rounding import rounded_to
from .affine import ScaleOffset
from .scales import normalised, reciprocal, rounded


class Projection(NamedTuple):
    """The nearest representable tensor, with what an estimator needs to build its backward mask.

    All arrays broadcast to `value.shape`. Fields that a format has nothing to say about are None; fields
    that an estimator does not read cost nothing under jit.
    """

    value: Array
    """The representable tensor, in the dtype of the input; in a kernel float32, before it is rounded to that."""
    step: Array | None = None
    """Distance between neighbouring levels around the value, in units of the input."""
    error_in_steps: Array | None = None
    """`|value - x| / step`, taken before `value` is rounded to the dtype of the input: at most 1/2 inside the grid, 1
    where rounding is stochastic."""
    relative_magnitude: Array | None = None
    """Magnitude of x (of its vector, for codebooks) over that of the outermost level: at most 1 inside the grid."""
    keep: Array | None = None
    """Boolean, False where sparsity zeroed the entry."""
    threshold: Array | None = None
    """Smallest kept magnitude, of the shape that shares it."""
    rms: Array | None = None
    """Root mean square of what shares a threshold, or a scale; in a kernel that of the row, where a mask reads it."""
    dvalue_dscale: Array | None = None
    """Derivative of `value` by the number that scales it."""
    rotated: Union["Projection", None] = None
    """In the basis that a format itself rotates to, what its grid did there; `value` is that, rotated back."""

    distance = old_attribute("distance", "error_in_steps")
    radius = old_attribute("radius", "relative_magnitude")
    slope = old_attribute("slope", "dvalue_dscale")


def in_steps(x: Array, scale: Array | ScaleOffset) -> Array:
    """Float32 `x` in units of its scale, from where its grid has its zero."""
    if isinstance(scale, ScaleOffset):
        return normalised(x - scale.offset, scale.scale)
    return normalised(x, scale)


def of_level(level: Array, scale: Array | ScaleOffset, product: Callable[[Array], Array] = rounded) -> Array:
    """Inverse of `in_steps`, of levels. `product`: how products are rounded."""
    if isinstance(scale, ScaleOffset):
        return product(level * scale.scale) + scale.offset
    return product(level * scale)


def on_grid(grid: Any, x: Array, scale: Array | ScaleOffset, keep: Array | None = None, **how: Any) -> Projection:
    """The projection of `with_level` alone."""
    return with_level(grid, x, scale, keep, **how)[0]


def with_level(
    grid: Any,
    x: Array,
    scale: Array | ScaleOffset,
    keep: Array | None = None,
    *,
    uniform: Array | None = None,
    restored: Array | ScaleOffset | None = None,
    per_gap: Callable[[Array, Array], Array] = truediv,
    product: Callable[[Array], Array] = rounded,
) -> tuple[Projection, Array]:
    """Float32 `x` on `grid` in units of `scale`, which broadcasts to x; its value not yet in the dtype of the row.

    And the level of every value.

    `keep`: what sparsity left, the rest being zero. `uniform`: random numbers in [0, 1), for a grid that rounds by them
    (its `drawn`); `nearest` without. `restored`: the scale of values, where levels are chosen by another.

    Elementwise. NaN and infinity become NaN; a scale of zero gives
    zero.
    """
    normal = in_steps(x if keep is None else jnp.where(keep, x, 0.0), scale)
    level, gap = grid.nearest(normal) if uniform is None else grid.drawn(normal, uniform)
    if isinstance(
        scale, ScaleOffset
    ):  # zero may lie at an end of the grid, so that both ends are as far from its middle
        low, high = float(grid.levels[0]), float(grid.levels[-1])
        radius = jnp.abs(normal - (low + high) / 2) * reciprocal((high - low) / 2)
        step = gap * scale.scale
    else:
        radius = jnp.abs(normal) * reciprocal(grid.levels[-1])
        step = gap * scale
    value, distance = (
        of_level(level, scale if restored is None else restored, product),
        per_gap(jnp.abs(normal - level), gap),
    )
    if keep is not None:
        value = jnp.where(keep, value, 0.0)
        distance = jnp.where(keep, distance, jnp.abs(x) / jnp.where(step > 0, step, 1.0))
    slope = level - jnp.where(radius <= 1, normal, 0.0)
    projection = Projection(
        value, step=step, error_in_steps=distance, relative_magnitude=radius, keep=keep, dvalue_dscale=slope
    )
    return projection, level


def in_dtype(x: Array, dtype: DTypeLike) -> Array:
    """Float32 `x` by `rounded_to`, saturating where float16 has no number so large; what is not finite stays.

    Levels round up as well as down, so that the largest float16 numbers would become infinities.
    """
    if jnp.dtype(dtype) == jnp.float16:
        most = float(jnp.finfo(jnp.float16).max)
        x = jnp.where(jnp.abs(x) < jnp.inf, jnp.clip(x, -most, most), x)
    return rounded_to(x, dtype)
