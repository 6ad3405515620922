"""Exact error of scaled grids: by the law of the scale.

- A scale that is a fixed multiple of the standard deviation (RMS of unboundedly many values, learned steps):
  closed form over the cells.
- RMS of K normal values: x / RMS is a coordinate of a uniform point on the sphere of radius sqrt(K), independent of
  the RMS, and E[RMS^2] = 1, so that the same closed form holds with the law of that coordinate.
- A scale that follows the group's largest magnitude m (absmax, powers of two): given m, the others are the
  distribution cut at m; an outer quadrature over m, a closed form inside.
- Two-level scales: one more quadrature, over the largest magnitude of the tensor.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .distributions import NORMAL, Array64, Density, Distribution, pieces_of
from .families import SphereCoordinate
from .grids import Grid
from .groups import Groups, GroupSize
from .mse import Mse

ROW = 1024
"""Values per row where an error has no limit for long rows and no length is given: the width of the paper's 100M."""

GAUSS_X, GAUSS_W = np.polynomial.legendre.leggauss(16)
SPAN = 0.25  # widest piece of the outer quadrature, in standard deviations
FAR = 1e-18  # probability beyond which the largest magnitude is not looked for


class Shared(NamedTuple):
    """How many values share a scale."""

    values: int
    row: int
    """Values of a row."""
    endless: bool
    """Whether they stand for unboundedly many."""


@runtime_checkable
class HasError(Protocol):
    """A scale rule that knows its exact error."""

    def error(self, grid: Grid, shared: Shared, distribution: Distribution) -> Mse | None:
        """Mean squared error of the grid under this scale, on values of unit variance; None where there is no form."""
        ...


@runtime_checkable
class FollowsMaximum(Protocol):
    """A scale rule that depends on the largest magnitude alone."""

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """Scale of a group with this largest magnitude."""
        ...

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Maxima between low and high at which the scale jumps; it is constant between them, or smooth without any."""
        ...


def scaled_error(
    grid: Grid,
    scale: Any,
    group: GroupSize,
    distribution: Distribution,
    samples: int | None,
) -> Mse | None:
    """`E[(x - R(x))^2]` on rows of `samples` values (None: unboundedly long); None where there is no exact form."""
    row = samples or ROW
    numbered = Groups(group).values
    shared = {"row": row, "matrix": row * row}[group] if isinstance(group, str) else numbered
    assert shared is not None
    if isinstance(scale, HasError):
        return scale.error(grid, Shared(shared, row, samples is None and numbered is None), distribution)
    if isinstance(scale, FollowsMaximum):
        return Mse(maximum_error(grid, scale, shared, distribution), f"quadrature, maximum of {shared}")
    return None


def rms_error(grid: Grid, clip: float, shared: Shared, distribution: Distribution) -> Mse | None:
    """Of scales that put the largest level at `clip` times the RMS; exact for rows that are endless, or normal."""
    if shared.endless:
        return Mse(fixed_error(grid, clip, distribution), "closed form")
    if distribution == NORMAL:
        return Mse(fixed_error(grid, clip, SphereCoordinate(shared.values)), f"closed form, RMS of {shared.values}")
    return None


def fixed_error(grid: Grid, clip: float, density: Density) -> float:
    """Error with the largest level at `clip`."""
    return float(pieces_of(grid, clip / grid.levels[-1]).error(density))


OwnError = Callable[[Grid, Array64, Array64], Array64]
"""Squared error of the largest value of a group, from the grid, scales and maxima."""


def maximum_error(
    grid: Grid,
    rule: FollowsMaximum,
    size: int,
    distribution: Distribution,
    *,
    cap: float | None = None,
    own: OwnError | None = None,
) -> float:
    """Mean error over groups of `size` values scaled by their largest magnitude m, itself at most `cap`.

    `own`: in place of `own_error`.

    `int 2 p(m) [ P^(size-1) e(m) + (size-1) P^(size-2) I(m) ] dm`, P = P(|x| < m), e the error of the largest value
    itself, I(m) the integral of the squared error over |x| < m. Cut into pieces at the jumps of the scale and, where
    it is constant, at the boundaries of its cells, where I has kinks.
    """
    high = cap if cap is not None else float(-distribution.quantile(FAR / size))
    low = min(high / 2, float(distribution.quantile(0.5 + FAR ** (1 / size) / 2)))
    edges = _pieces(grid, rule, max(low, 1e-6), high)
    half = np.diff(edges) / 2
    maximum = ((edges[1:] + edges[:-1]) / 2)[:, None] + half[:, None] * GAUSS_X
    weight = (half[:, None] * GAUSS_W).ravel()
    maximum = maximum.ravel()
    scale = rule.of_maximum(maximum, grid)
    inside = interior_error(grid, scale, maximum, distribution)
    below = 1 - 2 * distribution.cdf(-maximum)
    density = below ** (size - 1) * (own or own_error)(grid, scale, maximum) + (size - 1) * below ** (size - 2) * inside
    total = float(np.sum(weight * 2 * distribution.pdf(maximum) * density))
    return total if cap is None else total / float(1 - 2 * distribution.cdf(np.array(-cap))) ** size


def own_error(grid: Grid, scale: Array64, maximum: Array64) -> Array64:
    """Squared error of the largest value, which is ±maximum with equal chance."""
    pieces = pieces_of(grid, scale)
    return (pieces.value(maximum) + pieces.value(-maximum)) / 2


def interior_error(grid: Grid, scale: Array64, maximum: Array64, distribution: Distribution) -> Array64:
    """`int_{-m}^{m} (x - rounded)^2 p(x) dx` for every pair of scale and maximum m."""
    return pieces_of(grid, scale).error(distribution, maximum[:, None])


def two_level_error(grid: Grid, scales: Grid, size: int, values: int, distribution: Distribution) -> float:
    """Mean error of groups of `size` under one outer scale set by the largest of `values` magnitudes, A.

    A group in `values / size` holds A and is scaled as by Absmax; the others have their maxima below A.
    """
    u = (GAUSS_X + 1) / 2  # P(largest magnitude < A) is uniform
    weights = GAUSS_W / 2
    tops = -distribution.quantile(-np.expm1(np.log(u) / values) / 2)
    share = size / values
    errors = []
    for top in tops:
        inner = _Under(scales, float(top))
        others = maximum_error(grid, inner, size, distribution, cap=float(top))
        at = np.array([top])
        scale = at / grid.levels[-1]
        mass = 1 - 2 * distribution.cdf(-at)
        rest = interior_error(grid, scale, at, distribution) / mass
        holder = (own_error(grid, scale, at) + (size - 1) * rest) / size
        errors.append((1 - share) * others + share * float(holder[0]))
    return float(np.dot(weights, errors))


class _Under:
    """Inner scales of two levels, under a given largest magnitude of the tensor."""

    def __init__(self, scales: Grid, top: float):
        self.scales, self.top = scales, top

    def _outer(self, grid: Grid) -> float:
        return self.top / (grid.levels[-1] * self.scales.levels[-1])

    def of_maximum(self, maximum: Array64, grid: Grid) -> Array64:
        """Nearest level of the scale grid, ties to even, times the outer scale."""
        outer = self._outer(grid)
        levels = self.scales.levels
        positive = levels[levels >= 0]
        wanted = maximum / grid.levels[-1] / outer
        return positive[np.searchsorted((positive[1:] + positive[:-1]) / 2, wanted)] * outer

    def jumps(self, low: float, high: float, grid: Grid) -> Array64:
        """Boundaries of the scale grid."""
        levels = self.scales.levels
        positive = levels[levels >= 0]
        at = (positive[1:] + positive[:-1]) / 2 * self._outer(grid) * grid.levels[-1]
        return at[(at > low) & (at < high)]


def _pieces(grid: Grid, rule: FollowsMaximum, low: float, high: float) -> Array64:
    """Edges between which the outer integrand is analytic and no piece is wide for where it stands."""
    jumps = rule.jumps(low, high, grid)
    edges = [np.array([low, high]), jumps, np.arange(low, min(high, 8.0), SPAN)]
    if high > 8.0:  # heavy tails: pieces in proportion
        edges.append(np.geomspace(8.0, high, int(np.log(high / 8.0) / 0.2) + 2))
    if jumps.size:
        starts = np.concatenate([[low], jumps, [high]])
        starts = starts[(starts >= low) & (starts <= high)]
        boundaries = np.abs(pieces_of(grid).kinks)
        for a, b in pairwise(starts):
            kinks = np.unique(boundaries) * rule.of_maximum(np.array([(a + b) / 2]), grid)
            edges.append(kinks[(kinks > a) & (kinks < b)])
    merged = np.unique(np.concatenate(edges))
    return merged[(merged >= low) & (merged <= high)]
