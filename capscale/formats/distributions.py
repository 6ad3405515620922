"""Data distributions by their partial moments: the closed forms that make grid errors exact.

A grid maps each cell [a, b] to one level l, so its squared error is a sum over cells of
`m2 - 2 l m1 + l^2 m0`, with `m_i = int_a^b x^i p(x) dx`. All arithmetic is float64 on the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
    middle = (levels[1:] + levels[:-1]) / 2
    return np.concatenate([[-np.inf], middle]), np.concatenate([middle, [np.inf]])


def grid_error(levels: Array64, density: Density) -> float:
    """`int (x - nearest level)^2 p(x) dx`, by closed form, absolute error of the order of 1e-15 per level."""
    m0, m1, m2 = density.moments(*cells(levels))
    return float(np.sum(m2 - 2 * levels * m1 + np.square(levels) * m0))


def second_moment(density: Density) -> tuple[float, float]:
    """Total mass, and `int x^2 p(x) dx`."""
    m0, _, m2 = density.moments(np.array([-np.inf, 0.0]), np.array([0.0, np.inf]))
    return float(m0.sum()), float(m2.sum())
