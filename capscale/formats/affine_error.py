"""Exact error of grids that span a group from end to end.

The ends a < b of K independent values have the density `K (K - 1) p(a) p(b) (F(b) - F(a))^(K - 2)`, and the other
values follow the distribution cut to (a, b). In the range r = b - a and the share t = -a / r of it below zero, a grid
with a zero point keeps the zero point between t = (k - 1/2) / steps and (k + 1/2) / steps, so that pieces of t have a
smooth integrand. All zero points of one range round to multiples of one step: the cells around these are integrated
once, and what lies between the ends is a sum over as many of them as there are codes.
"""

from typing import NamedTuple

import numpy as np

from .distributions import Array64, Distribution
from .grids import Grid

NODES, NODES_OF_NARROW = 8, 4
WIDE, NARROW = 1 / 16, 1 / 64  # of t: how far a piece reaches at most, and from where on down half the nodes do
PIECE = 0.5  # of the range, in standard deviations
FAR = 1e-18  # probability beyond which an end is not looked for


def range_error(
    grid: Grid,
    size: int,
    distribution: Distribution,
    zero_point: bool,
    standing: Array64 | None = None,
) -> float:
    """Mean squared error of groups of `size` values, on whose ends the ends of a grid of equal steps stand.

    `standing`: the level that each code of the grid stands for, in steps from the lowest; its own if not given.

    `zero_point`: the grid is moved so that zero is a level. Groups whose values have one sign, 2^(1 - size) of all, are
    left out.
    """
    steps = len(grid.levels) - 1
    codes = np.arange(steps + 1, dtype=np.float64)
    levels = codes if standing is None else standing
    below = (codes - levels)[1:-1, None]
    ranges, of_range = _nodes(_edges(2 * float(-distribution.quantile(FAR / size))), NODES)
    step = ranges / steps
    around_all = _around(np.arange(-steps, steps + 1.0), step, distribution) if zero_point else None
    total = 0.0
    for zero, shares, of_share in _pieces(steps, zero_point):
        if around_all is None:
            cells = _around(codes[1:-1] - zero, step, distribution)
        else:
            cells = around_all.part(steps + 1 - int(zero), 2 * steps - int(zero))
        inner = np.sum(cells.square + 2 * step * below * cells.first + np.square(step * below) * cells.mass, axis=0)
        low, high = -shares[:, None] * ranges, (1 - shares[:, None]) * ranges
        first, last = (levels[0] - zero) * step, (levels[-1] - zero) * step
        outer = _square(low, (0.5 - zero) * step, first, distribution)
        outer += _square((steps - 0.5 - zero) * step, high, last, distribution)
        ends = np.square(first - low) + np.square(last - high)
        inside = distribution.cdf(high) - distribution.cdf(low)
        rest = inside ** (size - 3)
        both = (size - 1) * distribution.pdf(low) * distribution.pdf(high) * ranges * rest
        total += float(of_share @ (both * ((size - 2) * (inner + outer) + inside * ends)) @ of_range)
    return total


class _Cells(NamedTuple):
    """Moments of the density in cells around multiples of a step, about these: (multiples, steps)."""

    mass: Array64
    first: Array64
    square: Array64

    def part(self, start: int, stop: int) -> "_Cells":
        """Those of some multiples that follow each other."""
        return _Cells(*(moment[start:stop] for moment in self))


def _around(multiples: Array64, step: Array64, distribution: Distribution) -> _Cells:
    """Cells of one step around multiples of it."""
    centre = multiples[:, None] * step
    m0, m1, m2 = distribution.moments(centre - step / 2, centre + step / 2)
    return _Cells(m0, m1 - centre * m0, m2 - 2 * centre * m1 + np.square(centre) * m0)


def _square(low: Array64, high: Array64, level: Array64, distribution: Distribution) -> Array64:
    """`int_low^high (x - level)^2 p(x) dx`."""
    m0, m1, m2 = distribution.moments(low, high)
    return m2 - 2 * level * m1 + np.square(level) * m0


def _pieces(steps: int, zero_point: bool) -> list[tuple[float, Array64, Array64]]:
    """Zero in steps, and shares of the range below it with their weights: of one zero point, or of one share each."""
    if not zero_point:
        shares, weights = _nodes(np.linspace(0.0, 1.0, round(1 / WIDE) + 1), NODES)
        return [(float(t) * steps, np.array([t]), np.array([w])) for t, w in zip(shares, weights, strict=True)]
    found = []
    for zero in range(steps + 1):
        low, high = max(0.0, (zero - 0.5) / steps), min(1.0, (zero + 0.5) / steps)
        edges = np.linspace(low, high, int(np.ceil((high - low) / WIDE)) + 1)
        found.append((float(zero), *_nodes(edges, NODES if high - low > NARROW else NODES_OF_NARROW)))
    return found


def _edges(most: float) -> Array64:
    """Pieces of the range: equal ones as far as a bulk reaches, in proportion beyond."""
    near = min(most, 20.0)
    edges = np.linspace(0.0, near, int(near / PIECE) + 1)
    return (
        edges
        if most <= near
        else np.concatenate([edges, np.geomspace(near, most, int(np.log(most / near) / 0.2) + 2)[1:]])
    )


def _nodes(edges: Array64, count: int) -> tuple[Array64, Array64]:
    """Gauss-Legendre points of all pieces, and their weights."""
    points, weights = np.polynomial.legendre.leggauss(count)
    half = np.diff(edges)[:, None] / 2
    return ((edges[1:] + edges[:-1])[:, None] / 2 + half * points).ravel(), (half * weights).ravel()
