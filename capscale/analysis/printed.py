"""The paper's printed capacities over two factors: Figures 2b, 6, 7 and 9 of arXiv 2506.01863."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from capscale.analysis.factorization import Axis, CapacityGrid

UNCOMPRESSED = {"sparsity": "0", "bits": "16"}
"""The level of a factor that leaves its tensor as it is."""


@dataclass(frozen=True)
class Printed:
    """The panels of one figure, all to two decimals.

    `product` and `error` come from numbers that were not rounded before, so that they may differ by .01 from what
    `grid` gives; `error` is an absolute value, NaN where the paper prints none.
    """

    figure: str
    grid: CapacityGrid
    product: np.ndarray
    error: np.ndarray
    deviation: np.ndarray | None
    """The +- printed beside each capacity, in Figure 7 alone."""

    def alone(self, k: int) -> dict[str, float]:
        """rho by the level of axis `k`, the other uncompressed."""
        return dict(zip(self.grid.axes[k].levels, map(float, self.grid.line(k)), strict=True))

    def at(self, axes: tuple[Axis, ...]) -> "Printed":
        """The part of these levels."""
        levels = [axis.levels for axis in axes]
        where = np.ix_(*[[a.levels.index(x) for x in c] for a, c in zip(self.grid.axes, levels, strict=True)])
        deviation = None if self.deviation is None else self.deviation[where]
        return Printed(self.figure, self.grid.at(levels), self.product[where], self.error[where], deviation)


def axis(name: str, values: tuple[float, ...]) -> Axis:
    """The axis of "sparsity of weights" (shares pruned) or "bits of weights"; 16 bits are uncompressed."""
    return Axis(name, tuple(f"{v:g}" for v in values), UNCOMPRESSED[name.split(maxsplit=1)[0]])


@cache
def printed() -> dict[str, Printed]:
    """The figures by their numbers: "2b", "6", "7", "9"."""
    content = json.loads((files("capscale.analysis") / "data" / "printed_capacities.json").read_text())
    found = {}
    for f in content["figures"]:
        axes = tuple(axis(name, tuple(levels)) for name, levels in zip(f["axes"], f["levels"], strict=True))
        measured, product, error = (np.array(f[panel], float) for panel in ("measured", "product", "error"))
        deviation = np.array(f["deviation"]) if "deviation" in f else None
        found[f["name"]] = Printed(f["figure"], CapacityGrid(f["figure"], axes, measured), product, error, deviation)
    return found
