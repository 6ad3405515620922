"""Stochastic rounding: up or down by chance, so that the mean over draws is the value itself."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError

from .distributions import Array64, Pieces, between_pieces
from .grids import Grid


@runtime_checkable
class Drawn(Grid, Protocol):
    """A grid whose rounding draws random numbers."""

    def drawn(self, u: Array, uniform: Array) -> tuple[Array, Array]:
        """Level of each `u`, by numbers uniform in [0, 1), and the distance between the two levels around it."""
        ...


@dataclass(frozen=True)
class StochasticRounding:
    """The two levels around a value, each with a probability of one less its distance in steps (arXiv 1502.02551).

    Unbiased between the outermost levels; values beyond them saturate. One uniform float32 number a value is drawn from
    `Context.key`, so that probabilities are multiples of 2^-23. A zero that is drawn is a positive one.

    Example: `Scalar(StochasticRounding(E2M1), PowerOfTwo("ceil"), 32)` is MXFP4 without saturation, unbiased.
    """

    grid: Grid

    def __post_init__(self) -> None:
        if isinstance(self.grid, Drawn):
            raise UserError(f"StochasticRounding(grid={self.grid}): the grid draws already; give the grid itself")

    @property
    def codes(self) -> int:
        """Number of codes, those of the grid."""
        return self.grid.codes

    @property
    def levels(self) -> Array64:
        """Levels of the grid."""
        return self.grid.levels

    def pieces(self, levels: Array64) -> Pieces:
        """`(upper - x)(x - lower)` between two of the levels, scaled: the mean squared error over draws."""
        return between_pieces(levels)

    def nearest(self, u: Array) -> tuple[Array, Array]:
        """Nearest level of the grid, where nothing is drawn: in a search over scales."""
        return self.grid.nearest(u)

    def drawn(self, u: Array, uniform: Array) -> tuple[Array, Array]:
        """The nearest level, or the other one around u where the number is below the distance in steps."""
        levels = self.levels
        inside = jnp.clip(u, jnp.float32(levels[0]), jnp.float32(levels[-1]))
        level, gap = self.grid.nearest(inside)
        off = inside - level
        other, _ = self.grid.nearest(level + jnp.where(off < 0, -gap, gap))
        found = jnp.where(uniform * gap < jnp.abs(off), other, level)
        return jnp.where(found == 0, 0.0, found), gap

    def encode(self, u: Array) -> Array:
        """Code of the nearest level; of a level, its own."""
        return self.grid.encode(u)

    def decode(self, codes: Array) -> Array:
        """Level of each code, the inverse of `encode`."""
        return self.grid.decode(codes)
