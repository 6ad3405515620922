"""Effects that claims about products of capacities are about: how far measured ones lie from the product of factors.

Every effect is an array (1 + S,): the estimate, then its resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from capscale.analysis.evidence import Evidence
from capscale.analysis.factorization import Axis, CapacityGrid, product
from capscale.errors import UserError
from capscale.representation import Representation

LEAST_SHARE = 0.5
"""Of the entries of a claim that must be measured for it to be judged."""
MOST_REASONS = 3
"""Of what is missing, that a note names."""


def grid_of(
    evidence: Evidence, name: str, axes: tuple[Axis, ...], cells: Mapping[tuple[str, ...], Representation]
) -> CapacityGrid:
    """Capacities of representations, by the levels of their factors; what was not measured is missing, with the reason.

    Raises:
      UserError: there is no result at all.
    """
    S = len(evidence.capacities.draws)
    shape = tuple(len(axis.levels) for axis in axes)
    every, why_not = np.full((1 + S, *shape), np.nan), {}
    for at in np.ndindex(shape):
        key = tuple(axis.levels[i] for axis, i in zip(axes, at, strict=True))
        try:
            curve = evidence.curve(cells[key]) if key in cells else "dense"
            (every[(slice(None), *at)],) = np.exp(evidence.stack([curve]))
        except UserError as reason:
            why_not[at] = str(reason)
    return CapacityGrid(name, axes, every[0], every[1:], why_not)


def distance(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Mean square of ours (M, 1 + S) less theirs (M,), the scatter of ours taken away; below 0 by chance.

    An exact copy is as far off as its scatter, and resamples have it twice. How large it is, resamples about the
    estimate say.
    """
    noise = np.mean((ours[:, 1:] - ours[:, :1]) ** 2)
    squares = np.mean((ours - theirs[:, None]) ** 2, axis=0)
    return squares - noise * np.where(np.arange(len(squares)) == 0, 1, 2)


@dataclass(frozen=True)
class Misses:
    """The tested entries of a grid (M,) with their resamples: measured and product, in rho (M, 1 + S)."""

    measured: np.ndarray
    product: np.ndarray
    printed: np.ndarray
    """ln of measured over product as the paper prints it (M,); NaN where there is no print."""
    note: str

    @property
    def logs(self) -> np.ndarray:
        """ln of measured over product (M, 1 + S)."""
        return np.log(self.measured / self.product)

    @property
    def mean(self) -> np.ndarray:
        """Mean of ln(measured / product)."""
        return self.logs.mean(axis=0)

    @property
    def pattern(self) -> np.ndarray:
        """Slope of our ln(measured / product) on the printed ones through the origin: 1 if the same, 0 for no misses.

        An entry counts by the square of its printed miss, so that it is told where the paper has something to tell.
        """
        return self.printed @ self.logs / (self.printed @ self.printed)

    @property
    def size(self) -> np.ndarray:
        """Root mean square of measured minus product, in rho, the scatter of runs taken away."""
        squares = distance(self.measured - self.product, np.zeros(len(self.measured)))
        return np.sqrt(np.maximum(squares, 0.0))

    @property
    def slope(self) -> np.ndarray:
        """Slope of ln measured on ln product, through the origin: 1 for an exact product."""
        x, y = np.log(self.product), np.log(self.measured)
        return (x * y).sum(axis=0) / (x * x).sum(axis=0)


def misses(
    grid: CapacityGrid,
    printed: CapacityGrid | None = None,
    where: Callable[[tuple[str, ...]], bool] = lambda levels: True,
) -> Misses:
    """The entries in which two factors or more compress, of those whose levels are chosen by `where`.

    Raises:
      UserError: fewer than half of them are measured, with the reasons.
    """
    found = product(grid)
    told = np.array([where(levels) for _, levels in grid.cells()]).reshape(grid.capacity.shape)
    wanted = told & (grid.compressed >= 2)
    chosen = wanted & found.tested
    note = f"{chosen.sum()} of {wanted.sum()} products measured"
    if chosen.sum() < wanted.sum():
        note += f": {_shortened(list(grid.why_not.values()))}"
    if chosen.sum() < LEAST_SHARE * wanted.sum():
        raise UserError(note)
    assert grid.draws is not None
    assert found.draws is not None
    measured = np.concatenate([grid.capacity[None], grid.draws])[:, chosen].T
    predicted = np.concatenate([found.predicted[None], found.draws])[:, chosen].T
    shown = np.full(grid.capacity.shape, np.nan)
    if printed is not None:
        shown = np.log(printed.capacity / product(printed).predicted)
    median = np.median(np.abs(measured - predicted)[:, 0])
    return Misses(measured, predicted, shown[chosen], f"median |measured - product| {median:.3f}; {note}")


def _shortened(reasons: list[str]) -> str:
    """Reasons, the first of many."""
    rest = len(reasons) - MOST_REASONS
    return "; ".join(reasons[:MOST_REASONS]) + (f"; and {rest} more" if rest > 0 else "")
