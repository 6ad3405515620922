"""Groups: which values of a tensor share a scale."""

from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

import jax.numpy as jnp
from jax import Array

from capscale.checks import check_flag, check_whole
from capscale.errors import UserError

from .storage import Shape


@dataclass(frozen=True)
class Groups:
    """Splits `(..., width)` so that what shares a scale lies on `axes`.

    `size`: "row", "matrix" (the last two axes), or a number of neighbours on the last axis, which is then split in
    two, `(..., groups, size)`; a ragged last group is padded with zeros.
    """

    size: int | Literal["row", "matrix"]
    ragged: bool = False

    def __post_init__(self) -> None:
        check_flag(self, "ragged")
        if self.size not in ("row", "matrix"):
            check_whole(self, "size", least=2)

    def count(self, width: int) -> int:
        """Groups on an axis of this width."""
        if not isinstance(self.size, int):
            return 1
        if width % self.size and not self.ragged:
            divisors = [str(g) for g in range(2, min(width, 2 * self.size) + 1) if width % g == 0]
            raise UserError(
                f"group={self.size} does not divide {width}; use {' or '.join(divisors[-3:]) or width}, "
                "or ragged=True for a shorter last group"
            )
        return ceil(width / self.size)

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Axes that one scale serves, of the split tensor; `ndim` is that of the tensor itself."""
        return (-2, -1) if self.size == "matrix" and ndim > 1 else (-1,)

    def split_shape(self, shape: Shape) -> Shape:
        """Shape of the split tensor."""
        if not isinstance(self.size, int):
            return shape
        return (*shape[:-1], self.count(shape[-1]), self.size)

    def scale_shape(self, shape: Shape) -> Shape:
        """Shape of one scale per group; it broadcasts to `split_shape`."""
        split, axes = self.split_shape(shape), self.axes(len(shape))
        return tuple(1 if i - len(split) in axes else n for i, n in enumerate(split))

    def split(self, x: Array) -> Array:
        """The tensor, groups apart."""
        if not isinstance(self.size, int):
            return x
        split = self.split_shape(x.shape)
        missing = split[-2] * split[-1] - x.shape[-1]
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
        return padded.reshape(split)

    def join(self, x: Array, shape: Shape) -> Array:
        """Inverse of `split`."""
        if not isinstance(self.size, int):
            return x
        return x.reshape(*shape[:-1], x.shape[-2] * x.shape[-1])[..., : shape[-1]]

    def filled(self, counted: Array) -> Array | None:
        """Share of every group that is True in `counted`; padding is not."""
        split = self.split(counted.astype(jnp.int32))
        axes = self.axes(counted.ndim)
        counts = jnp.sum(split, axis=axes, keepdims=True, dtype=jnp.int32)
        return counts.astype(jnp.float32) / float(prod(split.shape[axis] for axis in axes))
