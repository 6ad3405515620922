"""Measures of runs of several tiles on Hopper (Mosaic GPU), of rows that a block holds in shared memory.

    tile --> a number of each row of the kernel --> shared memory --> that of all tiles of the run, in each of its rows

Largest magnitudes and both ends are maxima of integers, sums of squares are exact ones: the same bits in any order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from ...hopper import ROWS
from ..affine import LOWEST
from ..scales import Statistic
from . import strips
from .cut import Block
from .tiles import Tiles, together

Reads = Callable[[Any], list[Array]]
"""Strips of the tiles of a group that are measured, float32."""


class Measure(NamedTuple):
    """A measure of runs of tiles.

    Attributes:
      name: of its shared memory.
      statistic: what is measured.
      tiles: of a run.
      size: values of a run.
    """

    name: str
    statistic: Statistic
    tiles: int
    size: int

    def memory(self, block: Block) -> dict[str, Any]:
        """Shared memory for numbers of each row of the kernel, by name."""
        return {name: plgpu.SMEM((block.groups, ROWS), jnp.int32) for name in self._names}

    @property
    def _names(self) -> list[str]:
        count = {"none": 0, "largest": 1, "extremes": 2, "rms": 3}[self.statistic]
        return [f"{self.name}{i}" for i in range(count)]

    def take(self, tiles: Tiles, reads: Reads) -> None:
        """Measures every tile that the block holds."""
        columns = [tiles.smem[name] for name in self._names]

        def extremes(group: Any) -> None:
            for column, key in zip(columns, strips.end_keys(reads(group), (ROWS,)), strict=True):
                column[group] = key

        def largest(group: Any) -> None:
            columns[0][group] = lax.bitcast_convert_type(strips.largest(reads(group)), jnp.int32)

        def limbs(group: Any) -> None:
            greatest = self._largest(tiles, group)
            for column, total in zip(columns[1:], strips.limb_sums(reads(group), greatest, self.size), strict=True):
                column[group] = total

        if columns:
            tiles.each(extremes if self.statistic == "extremes" else largest)
        if self.statistic == "rms":
            tiles.each(limbs)

    def found(self, tiles: Tiles, group: Any) -> Any:
        """`strips.Sums` or `affine.Extremes` of the run that each tile is in; None where nothing is measured."""
        columns = [tiles.smem[name] for name in self._names]
        match self.statistic:
            case "none":
                return None
            case "extremes":
                low, high = (self._over(tiles, of, group, jnp.max, LOWEST) for of in columns)
                return strips.ends(low, high)
            case "largest":
                return strips.Sums(self._largest(tiles, group))
            case "rms":
                sums = [self._over(tiles, of, group, jnp.sum) for of in columns[1:]]
                return strips.Sums(self._largest(tiles, group), *(total.astype(jnp.float32) for total in sums))

    def _largest(self, tiles: Tiles, group: Any) -> Array:
        column = tiles.smem[self._names[0]]
        return lax.bitcast_convert_type(self._over(tiles, column, group, jnp.max), jnp.float32)

    def _over(self, tiles: Tiles, column: Any, group: Any, combine: Callable[..., Array], lowest: int = 0) -> Array:
        return together(column, group, block=tiles.block, tiles=self.tiles, combine=combine, lowest=lowest)
