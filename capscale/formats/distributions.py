"""Data distributions by their partial moments: the closed forms that make grid errors exact.

A grid maps each cell [a, b] to one level l, so its squared error is a sum over cells of
`m2 - 2 l m1 + l^2 m0`, with `m_i = int_a^b x^i p(x) dx`. All arithmetic is float64 on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array64 = NDArray[np.float64]
Moments = tuple[Array64, Array64, Array64]


class Density(Protocol):
    """Something with partial moments; it need not integrate to 1."""

    def moments(self, a: Array64, b: Array64) -> Moments:
        """`int_a^b x^i p(x) dx` for i = 0, 1, 2; ±inf allowed."""
        ...


class Distribution(Density, Protocol):
    """A symmetric density of zero mean and unit variance; frozen and hashable."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    def pdf(self, x: Array64) -> Array64:
        """Probability density at a value."""
        ...

    def cdf(self, x: Array64) -> Array64:
        """Probability of a value at or below x."""
        ...

    def quantile(self, p: Array64 | float) -> Array64:
        """Quantile of a probability, the inverse of `cdf`."""
        ...

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array64:
        """Independent draws of this shape, float64."""
        ...


@dataclass(frozen=True)
class Normal:
    """Standard normal distribution, N(0, 1)."""

    name = "normal"

    def pdf(self, x: Array64) -> Array64:
        """Probability density at a value."""
        return np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi)

    def cdf(self, x: Array64) -> Array64:
        """Probability of a value at or below x."""
        return special.ndtr(x)

    def quantile(self, p: Array64 | float) -> Array64:
        """Quantile of a probability, the inverse of `cdf`."""
        return special.ndtri(p)

    def moments(self, a: Array64, b: Array64) -> Moments:
        """m1 and m2 by parts: `(-p)' = x p` and `(P - x p)' = x^2 p`."""
        pa, pb = self.pdf(a), self.pdf(b)
        m0 = interval(special.ndtr, a, b)
        m1 = pa - pb
        m2 = m0 + finite(a) * pa - finite(b) * pb
        return m0, m1, m2

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array64:
        """Independent draws of this shape, float64."""
        return rng.standard_normal(shape)


NORMAL = Normal()


def finite(x: Array64) -> Array64:
    """`x` with ±inf replaced by 0: the limit of x p(x) is 0 there, and inf * 0 is not a number."""
    return np.where(np.isfinite(x), x, 0.0)


def interval(cdf: Callable[[Array64], Array64], a: Array64, b: Array64) -> Array64:
    """Probability of [a, b] of a symmetric law, taken on the left side so that far tails keep their digits."""
    left = np.asarray(a) + np.asarray(b) > 0
    return np.where(left, cdf(-np.asarray(a)) - cdf(-np.asarray(b)), cdf(b) - cdf(a))


def cells(levels: Array64) -> tuple[Array64, Array64]:
    """Lower and upper ends of the nearest-level cells of sorted levels; the outermost are infinite."""
    edges = nearest_pieces(levels).edges
    return edges[..., :-1], edges[..., 1:]


class Pieces(NamedTuple):
    """Squared error of rounding x, `square x^2 + slope x + constant` between two edges that follow each other."""

    edges: Array64
    """Ascending, the outermost infinite."""
    square: Array64
    slope: Array64
    constant: Array64

    def error(self, density: Density, bound: Array64 | float = np.inf) -> Array64:
        """Integral of the error over the values of at most `bound` in magnitude, which broadcasts to the edges."""
        edges = np.clip(self.edges, -np.asarray(bound), bound)
        m0, m1, m2 = density.moments(edges[..., :-1], edges[..., 1:])
        return np.sum(self.square * m2 + self.slope * m1 + self.constant * m0, axis=-1)

    def value(self, x: Array64) -> Array64:
        """The error at x, one value for every leading index of the edges."""
        at = np.sum(self.edges[..., 1:-1] < x[..., None], axis=-1)[..., None]
        square, slope, constant = (np.take_along_axis(c, at, -1)[..., 0] for c in self[1:])
        return square * np.square(x) + slope * x + constant

    @property
    def kinks(self) -> Array64:
        """Edges that are finite."""
        return self.edges[np.isfinite(self.edges)]


def nearest_pieces(levels: Array64) -> Pieces:
    """Of the nearest of ascending levels, (..., levels)."""
    return cut_pieces(levels, (levels[..., 1:] + levels[..., :-1]) / 2)


def cut_pieces(levels: Array64, inner: Array64) -> Pieces:
    """Of levels each of which is chosen between two neighbouring edges, (..., levels - 1) of them ascending."""
    return Pieces(_closed(inner), np.ones_like(levels), -2 * levels, np.square(levels))


def between_pieces(levels: Array64) -> Pieces:
    """Of either level around x by chance, with x for a mean: `(upper - x)(x - lower)`; the nearest beyond them."""
    low, high = levels[..., :-1], levels[..., 1:]
    first, last = levels[..., :1], levels[..., -1:]
    return Pieces(
        _closed(levels),
        np.concatenate([np.ones_like(first), -np.ones_like(low), np.ones_like(last)], axis=-1),
        np.concatenate([-2 * first, low + high, -2 * last], axis=-1),
        np.concatenate([np.square(first), -low * high, np.square(last)], axis=-1),
    )


def _closed(inner: Array64) -> Array64:
    """Edges with infinite ones at both ends."""
    end = np.full((*inner.shape[:-1], 1), np.inf)
    return np.concatenate([-end, inner, end], axis=-1)


def pieces_of(grid: Any, scale: Array64 | float = 1.0) -> Pieces:
    """The squared error of a grid in steps of `scale`, by its own `pieces` of levels, or by its nearest level."""
    levels = grid.levels * np.asarray(scale, np.float64)[..., None]
    return getattr(grid, "pieces", nearest_pieces)(levels)


def grid_error(levels: Array64, density: Density) -> float:
    """`int (x - nearest level)^2 p(x) dx`, by closed form, absolute error of the order of 1e-15 per level."""
    return float(nearest_pieces(levels).error(density))


def second_moment(density: Density) -> tuple[float, float]:
    """Total mass, and `int x^2 p(x) dx`."""
    m0, _, m2 = density.moments(np.array([-np.inf, 0.0]), np.array([0.0, np.inf]))
    return float(m0.sum()), float(m2.sum())
