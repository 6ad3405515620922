"""What a projection is: the nearest representable rows, and what is measured on the way; and the elementwise steps.

Every backend and every format computes these very functions, on whole tensors or on the blocks of a kernel.
"""

from typing import NamedTuple, Union

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from ..rounding import rounded_to
from .scales import Grid, normalised, reciprocal


class Projection(NamedTuple):
    """The nearest representable tensor, with what an estimator needs to build its backward mask.

    All arrays broadcast to `value.shape`. Fields that a format has nothing to say about are None; fields
    that an estimator does not read cost nothing under jit.
    """

    value: Array
    """The representable tensor, in the dtype of the input; in a kernel float32, before it is rounded to that."""
    step: Array | None = None
    """Distance between neighbouring levels around the value, in units of the input."""
    distance: Array | None = None
    """`|value - x| / step`, taken before `value` is rounded to the dtype of the input: at most 1/2 inside the grid."""
    radius: Array | None = None
    """Magnitude of x (of its vector, for codebooks) over that of the outermost level: at most 1 inside the grid."""
    keep: Array | None = None
    """Boolean, False where sparsity zeroed the entry."""
    threshold: Array | None = None
    """Smallest kept magnitude, of the shape that shares it."""
    rms: Array | None = None
    """Root mean square of what shares a threshold, or a scale; in a kernel that of the row, where a mask reads it."""
    slope: Array | None = None
    """Derivative of `value` by the number that scales it."""
    rotated: Union["Projection", None] = None
    """In the basis that a format itself rotates to, what its grid did there; `value` is that, rotated back."""


def on_grid(grid: Grid, x: Array, scale: Array, keep: Array | None = None) -> Projection:
    """Float32 `x` on `grid` in units of `scale`, which broadcasts to x; its value not yet in the dtype of the row.

    `keep`: what sparsity left, the rest being zero. Elementwise. NaN and infinity become NaN; a scale of zero gives
    zero.
    """
    normal = normalised(x if keep is None else jnp.where(keep, x, 0.0), scale)
    level, gap = grid.nearest(normal)
    radius = jnp.abs(normal) * reciprocal(grid.levels[-1])
    value = rounded(level * scale)
    step, distance = gap * scale, jnp.abs(normal - level) / gap
    if keep is not None:
        value = jnp.where(keep, value, 0.0)
        distance = jnp.where(keep, distance, jnp.abs(x) / jnp.where(step > 0, step, 1.0))
    slope = level - jnp.where(radius <= 1, normal, 0.0)
    return Projection(value, step=step, distance=distance, radius=radius, keep=keep, slope=slope)


def rounded(product: Array) -> Array:
    """`product` as it rounds by itself; NaN where it is not finite.

    Compilers fuse a product into the addition that follows, unrounded, so that a projected value would depend on what
    it is used for. They do not look through a selection. (An optimization barrier is gone before they fuse.)
    """
    return jnp.where(jnp.abs(product) < jnp.inf, product, jnp.nan)


def in_dtype(x: Array, dtype: DTypeLike) -> Array:
    """Float32 `x` by `rounded_to`, saturating where float16 has no number so large; what is not finite stays.

    Levels round up as well as down, so that the largest float16 numbers would become infinities.
    """
    if jnp.dtype(dtype) == jnp.float16:
        most = float(jnp.finfo(jnp.float16).max)
        x = jnp.where(jnp.abs(x) < jnp.inf, jnp.clip(x, -most, most), x)
    return rounded_to(x, dtype)
