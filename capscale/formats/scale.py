"""Scale rules: how many units of the tensor one unit of the grid is."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError

from .base import root_mean_square
from .grids import Grid
from .optimum import optimal_clip


class ScaleRule(Protocol):
    """Scale of every group; a frozen, hashable dataclass."""

    def __call__(self, x: Array, grid: Grid, axes: tuple[int, ...]) -> Array:
        """Scale of float32 `x`, one number over `axes` (kept with length 1). Zero where all of `x` is."""
        ...


@dataclass(frozen=True)
class Rms:
    """The largest level stands at `multiple` times the RMS of the group.

    None: the multiple that is MSE-optimal for Gaussian data, computed for the grid (`optimal_clip`).
    """

    multiple: float | None = None

    def __post_init__(self) -> None:
        if self.multiple is not None and not 0 < self.multiple < float("inf"):
            raise UserError(f"Rms(multiple={self.multiple}): the multiple must be positive; None computes the optimum")

    def clip(self, grid: Grid) -> float:
        """Where the largest level stands, in multiples of the RMS."""
        return optimal_clip(grid) if self.multiple is None else self.multiple

    def __call__(self, x: Array, grid: Grid, axes: tuple[int, ...]) -> Array:
        """`clip * RMS / largest level`."""
        return root_mean_square(x, axes) * jnp.float32(self.clip(grid) / grid.levels[-1])


GAUSSIAN_RMS = Rms()
