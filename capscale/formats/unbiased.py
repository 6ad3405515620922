"""Scales that make a rounding unbiased under random rotations (DRIVE, arXiv 2105.08339; EDEN, arXiv 2108.08842)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.errors import UserError
from capscale.kernels.project import in_steps, rounded
from capscale.kernels.rms import root_mean_square

from .base import Context
from .distributions import Distribution, cells
from .grids import Grid
from .mse import Mse
from .scale import GAUSSIAN_RMS, Rms
from .scale_rule import FLOAT32_BITS, Chooses, Combines, Group, ScaleRule, parts_of
from .scaling import Shared
from .stochastic import Drawn


@dataclass(frozen=True)
class Unbiased:
    """Levels are chosen by `rule`; the scale that is stored is the rule's times `<x, x> / <x, q>`, q what they give.

    So the projection v of a group has `<x, v> = <x, x>`, to float32's rounding, whatever x is. Its mean over uniformly
    random rotations that are undone is then x; for a fixed rotation, or none, v is biased in general. The squared error
    rises from D to D / (1 - D) where levels are the means of their cells. Where no level but zero is chosen the scale
    stays.

    `rule`: one that stores a float32 a group. Levels are rounded to the nearest.

    Example: `Scalar(lloyd_max(4), Unbiased())` is EDEN at 4 bits, on rows that were rotated.
    """

    rule: ScaleRule = GAUSSIAN_RMS

    def __post_init__(self) -> None:
        if isinstance(self.rule, Combines | Chooses) or hasattr(self.rule, "gain"):
            raise UserError(f"Unbiased(rule={self.rule}): use a rule that measures and stores one scale, such as Rms")

    @property
    def part_bits(self) -> tuple[int, ...]:
        """One float32 a group."""
        return self.rule.part_bits

    def check_grid(self, grid: Grid) -> None:
        """Rounds to the nearest level; and a rule that stores a float32 by itself."""
        if [part.bits for part in parts_of(self.rule, grid)] != [FLOAT32_BITS]:
            raise UserError(f"{self}: the factor is no power of two, so that the scale must be a float32")
        if isinstance(grid, Drawn):
            raise UserError(f"{self} on {grid}: stochastic rounding is unbiased by itself; use {self.rule}")

    def choosing(self, group: Group, grid: Grid, ctx: Context) -> Array:
        """The scale of the rule."""
        return self.rule.measure(group, grid, ctx)[0]

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """The scale of the rule times the factor."""
        if group.filled is not None:
            raise UserError(f"{self}: groups have to divide the row")
        scale = self.choosing(group, grid, ctx)
        return (unbiasing(group, grid, scale) * scale,)

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Bits of the float32."""
        return self.rule.encode(parts)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """float32 of the bits."""
        return self.rule.decode(codes)

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Closed form of unboundedly long rows under scales of the RMS: `E[q^2] / E[x q]^2 - 1`; measured otherwise."""
        if not shared.endless or not isinstance(self.rule, Rms):
            return None
        levels = grid.levels * (self.rule.clip(grid) / grid.levels[-1])
        m0, m1, _ = distribution.moments(*cells(levels))
        product, square = float(np.sum(levels * m1)), float(np.sum(np.square(levels) * m0))
        return Mse(square / product**2 - 1, "closed form")


def unbiasing(group: Group, grid: Grid, scale: Array) -> Array:
    """`<x, x> / <x, q>` of each group, q the nearest levels in units of `scale`, by sums of no order; 1 where q is 0.

    `4 <u, q> = |u + q|^2 - |u - q|^2`, in units of the scale.
    """
    u = in_steps(group.x, scale)
    level, _ = grid.nearest(u)
    own, more, less = (rounded(jnp.square(root_mean_square(v, group.axes))) for v in (u, u + level, u - level))
    product = more - less
    return jnp.where(product > 0, 4.0 * own * (1.0 / jnp.where(product > 0, product, 1.0)), 1.0)
