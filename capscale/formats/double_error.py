"""Exact error of grids under largest magnitudes that are quantized in turn, relative to their mean.

The largest magnitude m of a group of K values has the law `P(m)^K`, P = P(|x| < m); its mean is mu. Of the groups of a
run one has the largest |m - mu|, A, and stands at an end of the second grid; the others follow the law of m cut to
mu - A .. mu + A. Between two boundaries of the second grid the stored m is constant, and the error is smooth in m.
"""

import numpy as np
from scipy.optimize import root_scalar

from .distributions import Array64, Distribution, nearest_pieces
from .grids import Grid

OUTER_X, OUTER_W = np.polynomial.legendre.leggauss(16)
INNER_X, INNER_W = np.polynomial.legendre.leggauss(6)
FAR = 1e-18  # probability beyond which the largest magnitude is not looked for


def double_error(grid: Grid, second: Array64, size: int, run: int, distribution: Distribution) -> float:
    """Mean squared error of groups of `size` values, `run` of them under one scale of the grid of levels `second`.

    Levels of values are the nearest under m itself; their values are those under the stored m.
    """
    law = _Maximum(size, distribution)
    mean = law.mean()
    tops = [law.reach(mean, ((x + 1) / 2) ** (1 / run)) for x in OUTER_X]  # P(|m - mu| < A)^run is uniform
    errors = []
    for top in tops:
        m, weight = law.nodes(mean, top, second)
        stored = mean + top * _nearest(second, (m - mean) / top)
        others = np.sum(weight * law.pdf(m) * _error(grid, m, stored, law)) / np.sum(weight * law.pdf(m))
        ends = np.array([end for end in (mean - top, mean + top) if end > law.low])
        share = law.pdf(ends) / np.sum(law.pdf(ends))
        held = mean + top * _nearest(second, (ends - mean) / top)
        holder = np.sum(share * _error(grid, ends, held, law))
        errors.append((1 - 1 / run) * others + holder / run)
    return float(np.dot(OUTER_W / 2, errors))


class _Maximum:
    """The law of the largest of `size` magnitudes."""

    def __init__(self, size: int, distribution: Distribution):
        self.size, self.distribution = size, distribution
        self.high = float(-distribution.quantile(FAR / size))
        self.low = max(float(distribution.quantile(0.5 + FAR ** (1 / size) / 2)), 1e-6)

    def inside(self, m: Array64 | float) -> Array64:
        """Probability of a value of at most m in magnitude."""
        return 1 - 2 * self.distribution.cdf(-np.asarray(m, np.float64))

    def pdf(self, m: Array64) -> Array64:
        """Density of the largest."""
        return self.size * 2 * self.distribution.pdf(m) * self.inside(m) ** (self.size - 1)

    def mean(self) -> float:
        """Mean of the largest."""
        m, weight = _gauss(np.linspace(self.low, self.high, 64))
        return float(np.sum(weight * m * self.pdf(m)))

    def reach(self, mean: float, probability: float) -> float:
        """Distance from the mean within which the largest lies with this probability."""

        def off(a: float) -> float:
            below = self.inside(max(mean - a, 0.0)) ** self.size
            return float(self.inside(mean + a) ** self.size - below - probability)

        return float(root_scalar(off, bracket=(0.0, self.high), method="brentq", xtol=1e-13).root)

    def nodes(self, mean: float, top: float, second: Array64) -> tuple[Array64, Array64]:
        """Points and weights over the magnitudes within `top` of the mean, piece by piece of the second grid."""
        low, high = max(mean - top, self.low), mean + top
        jumps = mean + top * (second[1:] + second[:-1]) / 2
        return _gauss(np.unique(np.concatenate([[low, high], jumps[(jumps > low) & (jumps < high)]])))


def _error(grid: Grid, m: Array64, stored: Array64, law: _Maximum) -> Array64:
    """Mean squared error of a group whose largest magnitude is m, and is stored as another number."""
    unit = grid.levels / grid.levels[-1]
    chosen, levels = nearest_pieces(unit * m[:, None]), unit * stored[:, None]
    pieces = chosen._replace(slope=-2 * levels, constant=np.square(levels))
    own = (pieces.value(m) + pieces.value(-m)) / 2
    rest = pieces.error(law.distribution, m[:, None]) / law.inside(m)
    return (own + (law.size - 1) * rest) / law.size


def _nearest(levels: Array64, x: Array64) -> Array64:
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]


def _gauss(edges: Array64) -> tuple[Array64, Array64]:
    """Gauss-Legendre points of all pieces between edges, and their weights."""
    half = np.diff(edges)[:, None] / 2
    return ((edges[1:] + edges[:-1])[:, None] / 2 + half * INNER_X).ravel(), (half * INNER_W).ravel()
