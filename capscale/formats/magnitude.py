"""Scales from the mean or the median magnitude, as BitNet b1.58 has (arXiv 2402.17764; medians: arXiv 2407.09527)."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.checks import check_choice, check_real
from capscale.errors import UserError
from capscale.kernels.rms import root_mean_square
from capscale.kernels.select.search import kth_magnitude

from .base import Context
from .distributions import Distribution
from .grids import Grid
from .mse import Mse
from .scale_rule import Float32Part, Group
from .scaling import Shared, fixed_error


@dataclass(frozen=True)
class Magnitude(Float32Part):
    """One step of the grid is `multiple` times the mean, or the median, of the magnitudes of the group.

    The mean is the square of the RMS of square roots, whose sums do not depend on their order; the median of an even
    number of values is the greater of the two in the middle.
    """

    of: Literal["mean", "median"] = "mean"
    multiple: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self, "of", ("mean", "median"))
        check_real(self, "multiple", above=0)

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """`multiple * mean |x|`, or of the median."""
        if self.of == "mean":
            magnitude = jnp.square(root_mean_square(jnp.sqrt(jnp.abs(group.x)), group.axes, group.filled))
        elif group.filled is None:
            values = prod(group.x.shape[axis] for axis in group.axes)
            magnitude = kth_magnitude(group.x, (values + 1) // 2, group.axes)
        else:
            raise UserError(f"{self}: groups that are not full have no median; use of='mean', or groups that divide")
        return (magnitude * jnp.float32(self.multiple),)

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Closed form of unboundedly long rows and matrices; of a number of values it is measured."""
        if not shared.endless:
            return None
        _, first, _ = distribution.moments(np.zeros(1), np.full(1, np.inf))
        magnitude = 2 * float(first[0]) if self.of == "mean" else float(distribution.quantile(0.75))
        return Mse(fixed_error(grid, self.multiple * magnitude * grid.levels[-1], distribution), "closed form")
