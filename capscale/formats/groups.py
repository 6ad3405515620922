"""Groups: which values of a tensor share a scale."""

from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

import jax.numpy as jnp
from jax import Array

from capscale.checks import check_flag, check_whole
from capscale.errors import UserError

from .storage import Shape

GroupSize = int | tuple[int, int] | Literal["row", "matrix"]


@dataclass(frozen=True)
class Groups:
    """Splits `(..., width)` so that what shares a scale lies on `axes`.

    `size`: "row", "matrix" (the last two axes), a number of neighbours on the last axis, which is then split in
    two, `(..., groups, size)`, a ragged last group being padded with zeros; or `(rows, columns)` of a block, where both
    of the last axes are, `(..., blocks, rows, blocks, columns)`.
    """

    size: GroupSize
    ragged: bool = False

    def __post_init__(self) -> None:
        check_flag(self, "ragged")
        if isinstance(self.size, tuple):
            if len(self.size) != 2 or not all(type(n) is int and n >= 2 for n in self.size):
                raise UserError(f"Groups(size={self.size}): a block is (rows, columns), both at least 2")
            if self.ragged:
                raise UserError(f"Groups(size={self.size}, ragged=True): blocks have to divide both axes")
        elif self.size not in ("row", "matrix"):
            check_whole(self, "size", least=2)

    @property
    def values(self) -> int | None:
        """How many values share a scale; None where rows or matrices do, of any size."""
        return prod(self.size) if isinstance(self.size, tuple) else None if isinstance(self.size, str) else self.size

    @property
    def columns(self) -> int | None:
        """Neighbours on the last axis that share a scale; None for all."""
        return self.size[1] if isinstance(self.size, tuple) else None if isinstance(self.size, str) else self.size

    def count(self, width: int) -> int:
        """Groups on an axis of this width."""
        if self.columns is None:
            return 1
        if width % self.columns and not self.ragged:
            divisors = [str(g) for g in range(2, min(width, 2 * self.columns) + 1) if width % g == 0]
            ragged = "" if isinstance(self.size, tuple) else ", or ragged=True for a shorter last group"
            raise UserError(
                f"group={self.size} does not divide {width}; use {' or '.join(divisors[-3:]) or width}{ragged}"
            )
        return ceil(width / self.columns)

    def rows_count(self, shape: Shape) -> int:
        """Blocks on the axis of rows."""
        assert isinstance(self.size, tuple)
        if len(shape) < 2 or shape[-2] % self.size[0]:
            raise UserError(f"group={self.size}: blocks of {self.size[0]} rows do not divide a tensor of shape {shape}")
        return shape[-2] // self.size[0]

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Axes that one scale serves, of the split tensor; `ndim` is that of the tensor itself."""
        if isinstance(self.size, tuple):
            return (-3, -1)
        return (-2, -1) if self.size == "matrix" and ndim > 1 else (-1,)

    def split_shape(self, shape: Shape) -> Shape:
        """Shape of the split tensor."""
        if isinstance(self.size, tuple):
            return (*shape[:-2], self.rows_count(shape), self.size[0], self.count(shape[-1]), self.size[1])
        if not isinstance(self.size, int):
            return shape
        return (*shape[:-1], self.count(shape[-1]), self.size)

    def scale_shape(self, shape: Shape) -> Shape:
        """Shape of one scale per group; it broadcasts to `split_shape`."""
        split, axes = self.split_shape(shape), self.axes(len(shape))
        return tuple(1 if i - len(split) in axes else n for i, n in enumerate(split))

    def part_shape(self, shape: Shape, shared_by: int | Literal["row", "matrix"]) -> Shape:
        """Shape of one number for so many groups; of one a row or a matrix, which broadcasts to `split_shape`."""
        own = self.scale_shape(shape)
        if isinstance(shared_by, int):
            return own if shared_by == 1 else (*own[:-2], ceil(own[-2] / shared_by), 1)
        last = len(self.axes(len(shape))) + (2 if shared_by == "matrix" else 1)
        return (*own[:-last], *(1,) * min(last, len(own)))

    def split(self, x: Array) -> Array:
        """The tensor, groups apart."""
        if isinstance(self.size, tuple):
            return x.reshape(self.split_shape(x.shape))
        if not isinstance(self.size, int):
            return x
        split = self.split_shape(x.shape)
        missing = split[-2] * split[-1] - x.shape[-1]
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x
        return padded.reshape(split)

    def join(self, x: Array, shape: Shape) -> Array:
        """Tensor of the groups, the inverse of `split`."""
        if isinstance(self.size, tuple):
            return x.reshape(shape)
        if not isinstance(self.size, int):
            return x
        return x.reshape(*shape[:-1], x.shape[-2] * x.shape[-1])[..., : shape[-1]]

    def filled(self, counted: Array) -> Array | None:
        """Share of every group that is True in `counted`; padding is not."""
        split = self.split(counted.astype(jnp.int32))
        axes = self.axes(counted.ndim)
        counts = jnp.sum(split, axis=axes, keepdims=True, dtype=jnp.int32)
        return counts.astype(jnp.float32) / float(prod(split.shape[axis] for axis in axes))


def runs_of(of_groups: Array, size: int) -> Array:
    """Numbers of groups (..., groups, 1) in runs of `size` that follow each other, (..., runs, size, 1), with zeros."""
    padding = [(0, 0)] * (of_groups.ndim - 2) + [(0, -of_groups.shape[-2] % size), (0, 0)]
    return jnp.pad(of_groups, padding).reshape(*of_groups.shape[:-2], -1, size, 1)


def of_runs(common: Array, size: int, groups: int) -> Array:
    """The number (..., runs, 1) of the run of each group, (..., groups, 1)."""
    return jnp.repeat(common, size, axis=-2)[..., :groups, :]
