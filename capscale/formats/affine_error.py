"""Exact error of grids that span a group from end to end.

The ends a < b of K independent values have the density `K (K - 1) p(a) p(b) (F(b) - F(a))^(K - 2)`, and the other
values follow the distribution cut to (a, b). In the range r = b - a and the share t = -a / r of it below zero, a grid
with a zero point keeps the zero point between t = (k - 1/2) / steps and (k + 1/2) / steps, so that pieces of t have a
smooth integrand.
"""

import numpy as np

from .distributions import Array64, Distribution
from .grids import Grid

NODES = 8
POINTS, WEIGHTS = np.polynomial.legendre.leggauss(NODES)
PIECE = 0.5  # of the range, in standard deviations
FAR = 1e-18  # probability beyond which an end is not looked for


def range_error(
    grid: Grid,
    size: int,
    distribution: Distribution,
    zero_point: bool,
    cut: tuple[Array64, Array64] | None = None,
) -> float:
    """Mean squared error of groups of `size` values, on whose ends the ends of a grid of equal steps stand.

    `cut`: levels that values go to in place of the grid's own, and the edges between which each is chosen, both in
    steps from the lowest level; the nearest of the grid's if not given.

    `zero_point`: the grid is moved so that zero is a level. Groups whose values have one sign, 2^(1 - size) of all, are
    left out.
    """
    levels = grid.levels - grid.levels[0]
    steps = len(levels) - 1
    span = float(levels[-1])
    end = float(-distribution.quantile(FAR / size))
    shares, of_share = _nodes(np.clip(np.arange(-0.5, steps + 1) / steps, 0.0, 1.0))
    ranges, of_range = _nodes(_edges(2 * end))
    total = 0.0
    for share, weight in zip(shares, of_share, strict=True):
        low, high = -share * ranges, (1 - share) * ranges
        inside = distribution.cdf(high) - distribution.cdf(low)
        scale = ranges / span
        zero = np.round(share * steps) / steps * span if zero_point else share * span
        placed = ((levels if cut is None else cut[0]) - zero) * scale[:, None]
        edges = (placed[:, 1:] + placed[:, :-1]) / 2 if cut is None else (cut[1] - zero) * scale[:, None]
        error = _interior(placed, edges, low, high, distribution)
        ends = sum(np.square(placed[:, at] - end) for at, end in ((0, low), (-1, high)))
        density = (size - 2) * inside ** (size - 3) * error + inside ** (size - 2) * ends
        both = (size - 1) * distribution.pdf(low) * distribution.pdf(high) * ranges
        total += float(weight * np.sum(of_range * both * density))
    return total


def _interior(levels: Array64, inner: Array64, low: Array64, high: Array64, distribution: Distribution) -> Array64:
    """`int_low^high (x - level)^2 p(x) dx` for every row of ascending levels with the edges between them."""
    edges = np.clip(np.concatenate([low[:, None], inner, high[:, None]], axis=1), low[:, None], high[:, None])
    m0, m1, m2 = distribution.moments(edges[:, :-1], edges[:, 1:])
    return np.sum(m2 - 2 * levels * m1 + np.square(levels) * m0, axis=1)


def _edges(most: float) -> Array64:
    """Pieces of the range: equal ones as far as a bulk reaches, in proportion beyond."""
    near = min(most, 20.0)
    edges = np.linspace(0.0, near, int(near / PIECE) + 1)
    return (
        edges
        if most <= near
        else np.concatenate([edges, np.geomspace(near, most, int(np.log(most / near) / 0.2) + 2)[1:]])
    )


def _nodes(edges: Array64) -> tuple[Array64, Array64]:
    """Gauss-Legendre points of all pieces, and their weights."""
    edges = np.unique(edges)
    half = np.diff(edges)[:, None] / 2
    return ((edges[1:] + edges[:-1])[:, None] / 2 + half * POINTS).ravel(), (half * WEIGHTS).ravel()
