"""Absmax scales in 8 bits of their own (QLoRA's double quantization, arXiv 2305.14314, section 3)."""

from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from capscale.checks import check_choice, check_whole
from capscale.errors import UserError
from capscale.kernels.project import rounded
from capscale.kernels.project.scales import normalised, reciprocal
from capscale.kernels.rms import largest_magnitude, root_mean_square

from .base import Context, Granularity
from .distributions import Distribution
from .double_error import double_error
from .grids import Grid
from .groups import of_runs, runs_of
from .levels import Levels
from .mse import Mse
from .scale_rule import FLOAT32_BITS, Group, Part, largest
from .scaling import Shared

DECADES = 7
CODE_BITS = 8


@cache
def dynamic_map() -> Levels:
    """The 256 signed levels of bitsandbytes' dynamic map: seven decades of 1, 2, 4, ... evenly spaced ones.

    arXiv 1511.04561 has the idea, `create_dynamic_map` of bitsandbytes the numbers.
    """
    magnitudes = []
    for decade in range(DECADES):
        edges = np.linspace(0.1, 1.0, 2**decade + 1, dtype=np.float32)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        magnitudes.append(np.float32(10.0 ** (decade - DECADES + 1)) * middles)
    positive = np.sort(np.concatenate(magnitudes))
    levels = np.concatenate([-positive[::-1], [0.0], positive, [1.0]])
    return Levels(tuple(float(np.float32(level)) for level in levels))


@dataclass(frozen=True)
class DoubleQuantized:
    """Largest magnitudes of groups, less their mean, in 8 bits under a float32 for `groups` of them.

    `granularity`: whose groups have one mean, a float32, "matrix" or "row". The second quantization is absmax over
    `dynamic_map`. Levels of values are chosen by the largest magnitude itself, as in bitsandbytes.

    A row whose groups are no multiple of `groups` ends with fewer under a common scale.

    Example: `Scalar(NF4, DoubleQuantized(), 64)` is QLoRA's NF4: 4.127 bits a value.
    """

    groups: int = 256
    granularity: Granularity = "matrix"

    def __post_init__(self) -> None:
        check_whole(self, "groups", least=2)
        check_choice(self, "granularity", ("row", "matrix"))

    @property
    def part_bits(self) -> tuple[int, ...]:
        """A code a group, a float32 for several, one for all."""
        return CODE_BITS, FLOAT32_BITS, FLOAT32_BITS

    def parts(self, grid: Grid) -> tuple[Part, ...]:
        """A code a group, the scale of `groups` codes, the mean."""
        return Part(CODE_BITS), Part(FLOAT32_BITS, self.groups), Part(FLOAT32_BITS, self.granularity)

    def check_grid(self, grid: Grid) -> None:
        """Both ends of the grid are reached."""
        if abs(grid.levels[0]) > grid.levels[-1]:
            raise UserError(f"{self} on {grid}: the largest level has to be the largest in magnitude")

    def choosing(self, group: Group, grid: Grid, ctx: Context) -> Array:
        """`max |x| / largest level`."""
        return largest(group) * reciprocal(float(grid.levels[-1]))

    def measure(self, group: Group, grid: Grid, ctx: Context) -> tuple[Array, ...]:
        """Level of the second grid, its scale, and the mean, by a sum that does not depend on its order."""
        maximum = largest(group)
        flat = maximum[..., 0]
        axes = (-2, -1) if self.granularity == "matrix" and flat.ndim > 1 else (-1,)
        mean = rounded(jnp.square(root_mean_square(jnp.sqrt(flat), axes)))[..., None]
        apart = maximum - jnp.broadcast_to(mean, maximum.shape)
        common = largest_magnitude(runs_of(apart, self.groups), (-2,))[..., 0]
        level, _ = dynamic_map().nearest(normalised(apart, of_runs(common, self.groups, maximum.shape[-2])))
        return level, common, mean

    def combine(self, parts: tuple[Array, ...], grid: Grid) -> Array:
        """The largest magnitude as it is stored, over the largest level."""
        level, common, mean = parts
        apart = rounded(level * of_runs(common, self.groups, level.shape[-2]))
        return (apart + jnp.broadcast_to(mean, apart.shape)) * reciprocal(float(grid.levels[-1]))

    def encode(self, parts: tuple[Array, ...]) -> tuple[Array, ...]:
        """Index of the level, bits of the floats."""
        level, *floats = parts
        return dynamic_map().encode(level), *(lax.bitcast_convert_type(x, jnp.uint32) for x in floats)

    def decode(self, codes: tuple[Array, ...]) -> tuple[Array, ...]:
        """Parts of the codes, the inverse of `encode`."""
        index, *floats = codes
        return dynamic_map().decode(index), *(lax.bitcast_convert_type(x, jnp.float32) for x in floats)

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Quadrature over the largest magnitudes of a group and of a run; the mean is that of endless matrices.

        None where each row has a mean of its own, and where a row has runs of unequal lengths.
        """
        count = -(-shared.row // shared.values)
        if self.granularity == "row" or (count > self.groups and count % self.groups):
            return None
        run = min(count, self.groups)
        value = double_error(grid, dynamic_map().levels, shared.values, run, distribution)
        return Mse(value, f"quadrature, runs of {run} scales")
