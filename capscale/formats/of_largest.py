"""Scale rules from one function of the largest magnitude of a group: everything else is derived from it.

    @dataclass(frozen=True)
    class ThreeQuarters(OfLargest):
        def scale(self, largest, grid):
            return largest * 0.75 / grid.levels[-1]

has a training transform, kernels on TPU and GPU, packed storage and an exact error.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.kernels.project.scales import Statistic

from .base import Context
from .distributions import Array64
from .grids import Grid
from .scale_rule import Float32Part, Group, largest

PROBES = 4096  # magnitudes at which a scale is looked at for jumps
STEEP = 4.0  # a scale that grows by a higher power of the magnitude than this, between two probes, jumps there
BISECTIONS = 40


@dataclass(frozen=True)
class _Bound:
    """A rule and its grid, as kernels evaluate them."""

    rule: Any
    grid: Grid
    statistic: ClassVar[Statistic] = "largest"
    given: ClassVar[bool] = False

    def __call__(self, statistic: Array, given: Array | None) -> Array:
        """The rule's own scale, float32; what is not finite stays."""
        scale = jnp.asarray(self.rule.scale(statistic, self.grid), jnp.float32)
        return jnp.where(statistic < jnp.inf, scale, statistic)


class OfLargest(Float32Part):
    """Base of frozen dataclasses that define `scale(largest, grid)`, elementwise jnp of float32.

    A float32 a group is stored, unless the class states `part_bits`, `encode` and `decode` of its own.
    """

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """The scale of each group."""
        return (self.kernel_rule(grid)(largest(group), None),)

    def kernel_rule(self, grid: Grid) -> _Bound:
        """The same function, for kernels."""
        return _Bound(self, grid)

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """The same function, to the seven digits of float32."""
        run = jax.jit(lambda x: self.kernel_rule(grid)(x, None))
        return np.asarray(run(jnp.asarray(maximum, jnp.float32)), np.float64)

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Where the scale grows too fast between two magnitudes next to each other, found by bisection."""
        at = np.geomspace(low, high, PROBES)
        powers = np.log2(np.maximum(self.of_maximum(at, grid), np.finfo(np.float32).tiny))
        found = np.flatnonzero(np.abs(np.diff(powers)) > STEEP * np.log2(at[1] / at[0]))
        below, above = at[found], at[found + 1]
        middles = (powers[found] + powers[found + 1]) / 2
        rises = powers[found + 1] > powers[found]
        for _ in range(BISECTIONS):
            middle = (below + above) / 2
            beyond = (np.log2(np.maximum(self.of_maximum(middle, grid), 1e-38)) > middles) == rises
            below, above = np.where(beyond, below, middle), np.where(beyond, middle, above)
        return above
