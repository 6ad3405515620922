"""Scalar quantization: a grid, a scale rule, and how many values share a scale."""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.errors import UserError

from .base import Context, Projection, Scope, scope_axes, to_float32
from .distributions import Distribution, grid_error
from .error import Error
from .grids import Grid
from .scale import GAUSSIAN_RMS, Rms, ScaleRule

SCALE_BITS = 32  # scales are stored as the float32 they are computed in


@dataclass(frozen=True)
class Scalar:
    """`value = scale * nearest(x / scale)`, one scale per group.

    `group`: "row" (one scale per output channel of a weight, per token of an activation), "matrix" (one for the
    last two axes), or a number of neighbours on the last axis that divides it.

    Example: `Scalar(Int(4))` is the paper's INT4; `Scalar(Int(4), group=128)` has one scale per 128 inputs.
    """

    grid: Grid
    scale: ScaleRule = GAUSSIAN_RMS
    group: int | Literal["row", "matrix"] = "row"

    def __post_init__(self) -> None:
        if isinstance(self.group, int) and self.group < 2:
            raise UserError(f"Scalar(group={self.group}): a group holds at least 2 values; or use 'row' or 'matrix'")

    @property
    def bits(self) -> float:
        """Code bits, plus a scale's share of its group."""
        shared = SCALE_BITS / self.group if isinstance(self.group, int) else 0.0
        return float(np.log2(self.grid.codes)) + shared

    @property
    def scope(self) -> Scope:
        """Rows, unless one scale serves the matrix."""
        return "matrix" if self.group == "matrix" else "row"

    def per_row(self) -> "Scalar":
        """One scale per row where one served the matrix."""
        return replace(self, group="row") if self.group == "matrix" else self

    def error(self, distribution: Distribution, samples: int | None) -> Error | None:
        """Closed form where the scale is a fixed multiple of the standard deviation: RMS of unboundedly many values."""
        if isinstance(self.group, int) or samples is not None or not isinstance(self.scale, Rms):
            return None
        levels = self.grid.levels * (self.scale.clip(self.grid) / self.grid.levels[-1])
        return Error(grid_error(levels, distribution), "closed form")

    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest level of each value on the scaled grid of its group."""
        return self.project_scaled_by(x, to_float32(x, type(self).__name__))

    def project_scaled_by(self, x: Array, reference: Array, count: Array | None = None) -> Projection:
        """`project`, with the scales measured on float32 `reference` (survivors or dense row of a sparse tensor).

        `count`: boolean, which entries of `reference` the RMS is taken over; None for all.
        """
        grouped = self._grouped(to_float32(x, type(self).__name__))
        axes = scope_axes(self.scope, grouped.ndim) if self.group == "matrix" else (-1,)
        scale = self.scale(self._grouped(reference), self.grid, axes)
        if count is not None:
            kept = jnp.mean(self._grouped(count.astype(jnp.float32)), axis=axes, keepdims=True)
            scale = scale / jnp.sqrt(jnp.where(kept > 0, kept, 1.0))
        normal = jnp.where(scale > 0, grouped / jnp.where(scale > 0, scale, 1.0), 0.0)
        level, gap = self.grid.nearest(normal)
        top = jnp.float32(self.grid.levels[-1])
        return Projection(
            value=(level * scale).reshape(x.shape).astype(x.dtype),
            step=(gap * scale).reshape(x.shape),
            distance=(jnp.abs(normal - level) / gap).reshape(x.shape),
            radius=(jnp.abs(normal) / top).reshape(x.shape),
        )

    def _grouped(self, x: Array) -> Array:
        if not isinstance(self.group, int):
            return x
        width = x.shape[-1]
        if width % self.group:
            divisors = [str(g) for g in range(2, min(width, 2 * self.group) + 1) if width % g == 0]
            raise UserError(f"group={self.group} does not divide {width}; use one of {', '.join(divisors) or width}")
        return x.reshape(*x.shape[:-1], width // self.group, self.group)
