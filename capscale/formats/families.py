"""Other laws of zero mean and unit variance, by their partial moments (arXiv 2506.01863, appendix C.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from capscale.checks import check_real, check_whole
from capscale.errors import UserError

from .distributions import Array64, Moments, interval


@dataclass(frozen=True)
class Laplace:
    """`p(x) = exp(-|x| / s) / (2 s)`, s = 1/sqrt(2)."""

    name = "laplace"

    def pdf(self, x: Array64) -> Array64:
        """Probability density at a value."""
        return np.exp(-np.sqrt(2) * np.abs(x)) / np.sqrt(2)

    def cdf(self, x: Array64) -> Array64:
        """Probability of a value at or below x."""
        tail = np.exp(-np.sqrt(2) * np.abs(x)) / 2
        return np.where(np.asarray(x) < 0, tail, 1 - tail)

    def quantile(self, p: Array64 | float) -> Array64:
        """Quantile of a probability, the inverse of `cdf`."""
        p = np.asarray(p, np.float64)
        tail = np.log(2 * np.minimum(p, 1 - p)) / np.sqrt(2)
        return np.where(p < 0.5, tail, -tail)

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Antiderivatives of x e^{-x/s} and x^2 e^{-x/s}, mirrored at 0."""
        s = np.sqrt(0.5)

        def odd(x: Array64) -> Array64:  # int_{-inf}^{x} t p(t) dt, even in x
            z = np.minimum(np.abs(x), 745 * s)  # beyond, exp is 0 and so is the product
            return -np.exp(-z / s) * (z + s) / 2

        def even(x: Array64) -> Array64:  # int_{|x|}^{inf} t^2 p(t) dt
            z = np.minimum(np.abs(x), 745 * s)
            return np.exp(-z / s) * (z * z + 2 * s * z + 2 * s * s) / 2

        return interval(self.cdf, a, b), odd(b) - odd(a), _by_tails(even, a, b)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array64:
        """Independent draws of this shape, float64."""
        return rng.laplace(scale=np.sqrt(0.5), size=shape)


@dataclass(frozen=True)
class Logistic:
    """`P(x) = 1 / (1 + exp(-x / s))`, s = sqrt(3) / pi."""

    name = "logistic"

    def pdf(self, x: Array64) -> Array64:
        """Probability density at a value."""
        p = self.cdf(-np.abs(x))
        return p * (1 - p) / _LOGISTIC_SCALE

    def cdf(self, x: Array64) -> Array64:
        """Probability of a value at or below x."""
        return special.expit(np.asarray(x) / _LOGISTIC_SCALE)

    def quantile(self, p: Array64 | float) -> Array64:
        """Quantile of a probability, the inverse of `cdf`."""
        return special.logit(p) * _LOGISTIC_SCALE

    def moments(self, a: Array64, b: Array64) -> Moments:
        """By parts: the first is a softplus, the second a dilogarithm."""
        s = _LOGISTIC_SCALE

        def odd(x: Array64) -> Array64:  # int_{-inf}^{x} t p dt = -(z (1 - P) + s log(1 + e^{-z/s})), z = |x|
            z = np.minimum(np.abs(x), 745 * s)
            q = special.expit(-z / s)
            return -(z * q + s * np.log1p(np.exp(-z / s)))

        def even(x: Array64) -> Array64:  # int_{|x|}^{inf} t^2 p dt = z^2 q + 2 s z log(1 + w) - 2 s^2 Li2(-w)
            z = np.minimum(np.abs(x), 745 * s)
            w = np.exp(-z / s)
            dilogarithm = special.spence(1 + w)  # Li2(-w)
            return z * z * special.expit(-z / s) + 2 * s * z * np.log1p(w) - 2 * s * s * dilogarithm

        return interval(self.cdf, a, b), odd(b) - odd(a), _by_tails(even, a, b)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array64:
        """Independent draws of this shape, float64."""
        return rng.logistic(scale=_LOGISTIC_SCALE, size=shape)


_LOGISTIC_SCALE = np.sqrt(3) / np.pi


MOST_DF = 1e6
"""Degrees of freedom beyond which the formulas below lose the difference from the normal law, of order 1 / df."""


@dataclass(frozen=True)
class StudentT:
    """Student's t with `df` > 2 degrees of freedom, scaled to unit variance."""

    df: float = 5.0

    def __post_init__(self) -> None:
        check_real(self, "df", most=MOST_DF)
        if not self.df > 2:
            raise UserError(f"StudentT(df={self.df}): the variance is finite only for df > 2")

    @property
    def name(self) -> str:
        """With its degrees of freedom."""
        return f"student-t({self.df:g})"

    @property
    def _scale(self) -> float:
        return float(np.sqrt((self.df - 2) / self.df))

    def pdf(self, x: Array64) -> Array64:
        """Probability density at a value."""
        return stats.t.pdf(np.asarray(x) / self._scale, self.df) / self._scale

    def cdf(self, x: Array64) -> Array64:
        """Probability of a value at or below x."""
        return special.stdtr(self.df, np.asarray(x) / self._scale)

    def quantile(self, p: Array64 | float) -> Array64:
        """Quantile of a probability, the inverse of `cdf`."""
        return special.stdtrit(self.df, p) * self._scale

    def moments(self, a: Array64, b: Array64) -> Moments:
        """m1 in closed form; the tails of m2 by the incomplete beta function of `t^2 / (df + t^2)`."""
        df, s = self.df, self._scale
        norm = np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2)) / np.sqrt(df * np.pi)

        def odd(x: Array64) -> Array64:
            t = np.asarray(x) / s
            with np.errstate(over="ignore"):
                return -s * norm * df / (df - 1) * (1 + t * t / df) ** ((1 - df) / 2)

        def even(x: Array64) -> Array64:  # the variance is 1; half of it times the share of the tail
            t = np.asarray(x) / s
            with np.errstate(over="ignore"):
                return special.betainc(df / 2 - 1, 1.5, df / (df + t * t)) / 2

        return interval(self.cdf, a, b), odd(b) - odd(a), _by_tails(even, a, b)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array64:
        """Independent draws of this shape, float64."""
        return rng.standard_t(self.df, size=shape) * self._scale


@dataclass(frozen=True)
class SphereCoordinate:
    """One coordinate of a uniform point on the sphere of radius sqrt(K) in K dimensions: x / RMS of normal data.

    `u^2 / K` has the law Beta(1/2, (K - 1) / 2). K = 2 up; tends to N(0, 1).
    """

    values: int

    def __post_init__(self) -> None:
        check_whole(self, "values", least=2)

    def moments(self, a: Array64, b: Array64) -> Moments:
        """Incomplete beta functions; m1 in closed form."""
        k = float(self.values)
        a, b = np.clip(a, -np.sqrt(k), np.sqrt(k)), np.clip(b, -np.sqrt(k), np.sqrt(k))
        norm = np.exp(special.gammaln(k / 2) - special.gammaln((k - 1) / 2)) / np.sqrt(k * np.pi)

        def below(x: Array64) -> Array64:
            tail = special.betainc((k - 1) / 2, 0.5, np.clip(1 - x * x / k, 0, 1)) / 2
            return np.where(x < 0, tail, 1 - tail)

        def odd(x: Array64) -> Array64:
            return -norm * k / (k - 1) * np.clip(1 - x * x / k, 0, 1) ** ((k - 1) / 2)

        def even(x: Array64) -> Array64:
            return special.betainc((k - 1) / 2, 1.5, np.clip(1 - x * x / k, 0, 1)) / 2

        return interval(below, a, b), odd(b) - odd(a), _by_tails(even, a, b)


def _by_tails(tail: Callable[[Array64], Array64], a: Array64, b: Array64) -> Array64:
    """`int_a^b x^2 p` from its two-sided tails `int_{|x|}^inf`, the total being 1."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    ta, tb = tail(a), tail(b)
    across = 1 - ta - tb
    return np.where((a < 0) & (b > 0), across, np.where(a < 0, tb - ta, ta - tb))
