"""Is capacity multiplicative? Capacities over several factors against the product of each factor's own.

A factor is an operand (weights, activations) or a stage of one tensor (sparsity, bits), and one of its levels leaves
the tensor uncompressed. Finding 3 of arXiv 2506.01863: rho(a, b, ...) = rho(a) rho(b) ..., each of them alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np

from capscale.errors import UserError


@dataclass(frozen=True)
class Axis:
    """One factor: what it is called, its levels in the order they are shown, and the uncompressed one of them."""

    name: str
    levels: tuple[str, ...]
    dense: str

    def __post_init__(self) -> None:
        if len(set(self.levels)) != len(self.levels) or self.dense not in self.levels or len(self.levels) < 2:
            raise UserError(
                f"axis {self.name!r}: levels={self.levels} must be at least 2, all different, with dense={self.dense!r}"
            )


@dataclass(frozen=True)
class CapacityGrid:
    """Measured capacities over K factors; NaN where nothing was measured.

    Attributes:
      name: of the figure or the table that they come from.
      axes: the K factors.
      capacity: rho, a dimension an axis; that of the uncompressed corner is 1 or, where printed, what is printed.
      draws: resamples (S, ...) where the numbers come from runs; None for printed ones.
      why_not: reasons of missing numbers, by their indices.
      notes: what a reader must know of the others.

    Raises:
      UserError: fewer than two axes, shapes that differ, capacities that are not positive, no uncompressed corner.
    """

    name: str
    axes: tuple[Axis, ...]
    capacity: np.ndarray
    draws: np.ndarray | None = None
    why_not: Mapping[tuple[int, ...], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(len(axis.levels) for axis in self.axes)
        if len(shape) < 2:
            raise UserError(f"{self.name}: at least 2 factors make a product, not {len(shape)}")
        if self.capacity.shape != shape or (self.draws is not None and self.draws.shape[1:] != shape):
            raise UserError(f"{self.name}: capacities of shape {self.capacity.shape} for axes of {shape} levels")
        if np.any(self.capacity <= 0):
            raise UserError(f"{self.name}: capacities must be positive")
        if np.isnan(self.capacity[self.corner]):
            raise UserError(f"{self.name}: the capacity of the uncompressed corner is missing")

    @property
    def corner(self) -> tuple[int, ...]:
        """Where no factor compresses."""
        return tuple(axis.levels.index(axis.dense) for axis in self.axes)

    @cached_property
    def compressed(self) -> np.ndarray:
        """How many factors compress, of every entry."""
        each = [np.array([level != axis.dense for level in axis.levels], int) for axis in self.axes]
        return reduce(np.add.outer, each)

    def line(self, k: int) -> np.ndarray:
        """Capacities along axis `k` (S or nothing in front), the other factors uncompressed."""
        return self._line(self.capacity, k)

    def _line(self, values: np.ndarray, k: int) -> np.ndarray:
        at = [slice(None) if j == k else index for j, index in enumerate(self.corner)]
        return values[(..., *at)]

    def product_of_lines(self, values: np.ndarray) -> np.ndarray:
        """Product of the factors alone, over the corner, of capacities with any leading axes."""
        corner = values[(..., *self.corner)]
        out = corner[(..., *[None] * len(self.axes))]
        for k in range(len(self.axes)):
            line = self._line(values, k) / corner[..., None]
            out = out * line[(..., *[slice(None) if j == k else None for j in range(len(self.axes))])]
        return out

    def cells(self) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
        """Indices and levels of every entry."""
        for at in np.ndindex(self.capacity.shape):
            yield at, tuple(axis.levels[i] for axis, i in zip(self.axes, at, strict=True))

    def at(self, levels: Sequence[Sequence[str]]) -> "CapacityGrid":
        """The part with these levels of each axis, in this order; `UserError` names one that is not there."""
        for axis, chosen in zip(self.axes, levels, strict=True):
            if unknown := [level for level in chosen if level not in axis.levels]:
                raise UserError(f"{self.name}: {axis.name} has no level {unknown[0]!r}: {', '.join(axis.levels)}")
        where = [[a.levels.index(level) for level in chosen] for a, chosen in zip(self.axes, levels, strict=True)]
        axes = tuple(Axis(a.name, tuple(chosen), a.dense) for a, chosen in zip(self.axes, levels, strict=True))
        draws = None if self.draws is None else np.stack([d[np.ix_(*where)] for d in self.draws])
        old = {at: new for new, at in ((n, tuple(w[i] for w, i in zip(where, n, strict=True))) for n in _all(where))}
        why_not = {old[at]: reason for at, reason in self.why_not.items() if at in old}
        return CapacityGrid(self.name, axes, self.capacity[np.ix_(*where)], draws, why_not, self.notes)


def _all(where: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    return np.ndindex(tuple(len(w) for w in where))


@dataclass(frozen=True)
class Factorization:
    """A product for every entry of a grid; errors are measured minus predicted, positive where it is too low."""

    method: str
    grid: CapacityGrid
    predicted: np.ndarray
    draws: np.ndarray | None
    """Of the prediction (S, ...), from the grid's resamples."""
    tested: np.ndarray
    """Entries that were measured and that the prediction has not read."""

    @property
    def errors(self) -> np.ndarray:
        """Errors: measured minus predicted capacities."""
        return self.grid.capacity - self.predicted

    @property
    def error_draws(self) -> np.ndarray | None:
        """Measured minus predicted in every resample (S, ...); None for printed numbers."""
        return None if self.grid.draws is None or self.draws is None else self.grid.draws - self.draws

    def summary(self) -> dict[str, float]:
        """Mean, median and largest absolute error, mean error, and share of positive errors of the tested entries."""
        e = self.errors[self.tested]
        names = ("mean_abs", "median_abs", "max_abs", "mean", "share_positive")
        if not len(e):
            return {"entries": 0, **dict.fromkeys(names, np.nan)}
        size = np.abs(e)
        values = (np.mean(size), np.median(size), np.max(size), np.mean(e), np.mean(e > 1e-12))
        return {"entries": len(e), **{name: float(v) for name, v in zip(names, values, strict=True)}}


def entry_intervals(draws: np.ndarray | None, level: float = 0.95) -> np.ndarray | None:
    """Ends of the interval of every entry over resamples (2, ...); None for printed numbers."""
    return None if draws is None else np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)


def product(grid: CapacityGrid) -> Factorization:
    """Each factor alone, multiplied. Entries where two or more compress test it."""
    predicted = grid.product_of_lines(grid.capacity)
    draws = None if grid.draws is None else grid.product_of_lines(grid.draws)
    tested = (grid.compressed >= 2) & np.isfinite(grid.capacity) & np.isfinite(predicted)
    return Factorization("product", grid, predicted, draws, tested)


def closest_product(grid: CapacityGrid) -> Factorization:
    """The product of any vectors, one an axis, that is closest in log capacity: least squares over measured entries."""
    known = np.isfinite(grid.capacity)
    shape = grid.capacity.shape
    columns = [np.eye(n)[i] for n, i in zip(shape, np.indices(shape), strict=True)]
    every = np.concatenate(columns, axis=-1).reshape(-1, sum(shape))
    onto = every @ np.linalg.pinv(every[known.ravel()])
    # Of a level without a measured entry nothing is known.
    known_levels = every[known.ravel()].any(axis=0)
    onto[(every[:, ~known_levels] > 0).any(axis=1)] = np.nan
    predicted = np.exp(onto @ np.log(grid.capacity[known])).reshape(shape)
    draws = None if grid.draws is None else np.exp(np.log(grid.draws[:, known]) @ onto.T).reshape(-1, *shape)
    return Factorization("closest product", grid, predicted, draws, known)
