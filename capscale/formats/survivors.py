"""The law of what sparsity keeps: exact, for top-k by truncation, for N:M by order statistics."""

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy import special

from .distributions import NORMAL, Array64, Density, Distribution, Moments

SPAN = 1.0  # widest quadrature cell
GAUSS_X, GAUSS_W = np.polynomial.legendre.leggauss(20)  # entire integrands on SPAN: rounding error from 16 nodes up


Survival = Density
"""The part of a distribution that a sparsity keeps: `p(x) P(kept | x)`, not normalised."""


@dataclass(frozen=True)
class Tails:
    """Survivors of a threshold: `|x| >= threshold`."""

    base: Distribution
    threshold: float

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Moments of the base on what [a, b] shares with either tail."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        left = self.base.moments(np.minimum(a, -self.threshold), np.minimum(b, -self.threshold))
        right = self.base.moments(np.maximum(a, self.threshold), np.maximum(b, self.threshold))
        return left[0] + right[0], left[1] + right[1], left[2] + right[2]


@dataclass(frozen=True)
class LargestOf:
    """x is among the `n` largest magnitudes of `m` independent draws."""

    base: Distribution
    n: int
    m: int

    def kept(self, x: Array64) -> Array64:
        """`P(fewer than n of the other m - 1 are larger)`, a binomial tail."""
        larger = 2 * self.base.cdf(-np.abs(x))
        return special.bdtr(self.n - 1, self.m - 1, larger)

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Gauss-Legendre between all ends, 0 and every SPAN; beyond `far`, where all are kept, the base's own."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        far = self._far()
        inner_a, inner_b = np.clip(a, -far, far), np.clip(b, -far, far)
        edges = np.unique(
            np.concatenate([np.ravel(inner_a), np.ravel(inner_b), np.arange(-far, far, SPAN), [0.0, far]])
        )
        upto = self._cumulative(edges)
        inside = upto[:, np.searchsorted(edges, inner_b)] - upto[:, np.searchsorted(edges, inner_a)]
        left = self.base.moments(np.minimum(a, -far), np.minimum(b, -far))
        right = self.base.moments(np.maximum(a, far), np.maximum(b, far))
        return inside[0] + left[0] + right[0], inside[1] + left[1] + right[1], inside[2] + left[2] + right[2]

    def _cumulative(self, edges: Array64) -> Array64:
        """Moments from the first edge up to each, (3, edges)."""
        half = np.diff(edges)[:, None] / 2
        x = (edges[:-1] + edges[1:])[:, None] / 2 + half * GAUSS_X
        mass = half * GAUSS_W * self.base.pdf(x) * self.kept(x)
        parts = np.stack([mass.sum(1), (mass * x).sum(1), (mass * x * x).sum(1)])
        return np.concatenate([np.zeros((3, 1)), np.cumsum(parts, axis=1)], axis=1)

    def _far(self) -> float:
        """Where the chance of being pruned is below 1e-17."""
        return float(np.abs(self.base.quantile(1e-18)))


@dataclass(frozen=True)
class LargeBlocks:
    """x belongs to a block of `size` independent N(0, 1) values whose squared norm is among the `density` largest.

    With t^2 the quantile of chi^2 of `size` degrees that leaves `density` above it, P(kept | x) is the chance that
    chi^2 of size - 1 degrees exceeds t^2 - x^2. At x = t sin(angle) that is smooth in the angle.
    """

    size: int
    density: float

    @property
    def squared(self) -> float:
        """t^2, the least squared norm that is kept."""
        return float(2 * special.gammainccinv(self.size / 2, self.density))

    @property
    def energy(self) -> float:
        """E[x^2; kept], by x^2 p(x) being a density of chi^2 of two degrees more."""
        return float(special.gammaincc(self.size / 2 + 1, self.squared / 2))

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Gauss-Legendre in the angle up to t; beyond it all are kept."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        far = self.squared**0.5
        inner_a, inner_b = np.clip(a, -far, far), np.clip(b, -far, far)
        steps = np.linspace(-far, far, 2 * int(np.ceil(far / SPAN)) + 1)
        edges = np.unique(np.concatenate([np.ravel(inner_a), np.ravel(inner_b), steps]))
        angles = np.arcsin(np.clip(edges / far, -1, 1))
        half = np.diff(angles)[:, None] / 2
        angle = (angles[:-1] + angles[1:])[:, None] / 2 + half * GAUSS_X
        x, cosine = far * np.sin(angle), np.cos(angle)
        kept = special.gammaincc((self.size - 1) / 2, self.squared * cosine**2 / 2)
        mass = half * GAUSS_W * far * cosine * NORMAL.pdf(x) * kept
        parts = np.stack([mass.sum(1), (mass * x).sum(1), (mass * x * x).sum(1)])
        upto = np.concatenate([np.zeros((3, 1)), np.cumsum(parts, axis=1)], axis=1)
        inside = upto[:, np.searchsorted(edges, inner_b)] - upto[:, np.searchsorted(edges, inner_a)]
        left = NORMAL.moments(np.minimum(a, -far), np.minimum(b, -far))
        right = NORMAL.moments(np.maximum(a, far), np.maximum(b, far))
        return inside[0] + left[0] + right[0], inside[1] + left[1] + right[1], inside[2] + left[2] + right[2]


@dataclass(frozen=True)
class LargestPairs:
    """x belongs to one of the `n` pairs of largest norm among `m` pairs of independent N(0, 1).

    A pair's squared norm exceeds r^2 with chance exp(-r^2 / 2), so P(kept | r) is a polynomial in it, and averaging
    over x's partner turns `exp(-j r^2 / 2)` into `exp(-j x^2 / 2) / sqrt(1 + j)`: a sum of normal densities.
    """

    n: int
    m: int

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Sum over normal densities of variance 1 / (1 + j)."""
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        total = [np.zeros(np.broadcast(a, b).shape) for _ in range(3)]
        for power, coefficient in enumerate(self._polynomial()):
            width = (1 + power) ** -0.5
            # exp(-j x^2 / 2) p(x) = width * N(0, width^2), and the partner's average is another width.
            parts = NORMAL.moments(a / width, b / width)
            for i in range(3):
                total[i] += coefficient * width**2 * width**i * parts[i]
        return total[0], total[1], total[2]

    def _polynomial(self) -> Array64:
        """Coefficients of `P(fewer than n of m - 1 pairs are larger) = sum_i C(m-1, i) t^i (1 - t)^(m-1-i)` in t."""
        total = np.zeros(self.m)
        for i in range(self.n):
            term = np.polynomial.polynomial.polypow([1.0, -1.0], self.m - 1 - i) * comb(self.m - 1, i)
            total[i : i + term.size] += term
        return total
