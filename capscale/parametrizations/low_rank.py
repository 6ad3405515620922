"""Low rank: a matrix as the product of two narrow ones, and the error of the nearest such matrix."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from scipy.integrate import quad
from scipy.optimize import brentq

from capscale.checks import check_real, check_whole
from capscale.errors import UserError
from capscale.parametrizations.base import Parametrization, Shape, Stored, of_share


class OfRank(Parametrization):
    """A set that bounds a rank: of its matrices, or of their entries in another arrangement.

    The nearest of its matrices keeps the largest singular values of that arrangement (Eckart and Young, 1936).
    """

    share: float | None
    """Of the entries, in numbers that are stored; None where the rank itself is given."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """The rank that is given; None where a share is."""

    @abstractmethod
    def rank_of(self, shape: Shape) -> int:
        """The rank of a matrix of this shape; UserError for one that bounds nothing."""

    @abstractmethod
    def sides(self, shape: Shape) -> Shape:
        """Rows and columns of the entries as they are arranged."""

    @abstractmethod
    def arranged(self, x: Array) -> Array:
        """Entries of (..., in, out) as the matrices whose rank is bounded."""

    @abstractmethod
    def arranged_back(self, x: Array, shape: Shape) -> Array:
        """Inverse of `arranged`, of matrices of this shape."""

    def gmse(self, shape: Shape) -> float:
        """Energy of the smaller singular values, in the limit of large matrices of these sides."""
        return low_rank_error(self.rank_of(shape), self.sides(shape))


@dataclass(frozen=True)
class LowRank(OfRank):
    """`left right`, (in, r) and (r, out): both are stored and trained.

    Attributes:
      rank: r, at most the smaller side; or
      share: of the entries, in numbers that are stored: the largest rank that they pay for, 1 at least.
    """

    rank: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        check_whole(self, "rank", least=1, optional=True)
        check_real(self, "share", above=0, most=1, optional=True)
        check_one_given(self, "rank")

    @property
    def count(self) -> int | None:
        """The rank; None of a share."""
        return self.rank

    def rank_of(self, shape: Shape) -> int:
        """The rank of a matrix of this shape; UserError where it is above the smaller side."""
        if self.rank is None:
            return of_share(self.share or 0, shape, sum(shape))
        if self.rank > min(shape):
            raise self.refused(shape, f"rank={self.rank} is above the smaller side; use {min(shape)} at most")
        return self.rank

    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Shapes of both factors."""
        rank = self.rank_of(shape)
        return {"left": (shape[0], rank), "right": (rank, shape[1])}

    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """The same of both, as `rank` products add up in an entry."""
        return dict.fromkeys(("left", "right"), even_deviation(std, self.rank_of(shape)))

    def value(self, stored: Stored, shape: Shape) -> Array:
        """The product of both."""
        return jnp.matmul(stored["left"], stored["right"], precision=jax.lax.Precision.HIGHEST)

    def sides(self, shape: Shape) -> Shape:
        """Those of the matrix."""
        return shape

    def arranged(self, x: Array) -> Array:
        """Entries as they are."""
        return x

    def arranged_back(self, x: Array, shape: Shape) -> Array:
        """Entries as they are."""
        return x

    def __str__(self) -> str:
        return f"lowrank{self.share:g}" if self.rank is None else f"lowrank-r{self.rank}"


def check_one_given(value: Any, count: str) -> None:
    """Refuses a value that gives both a share and a count, or neither."""
    if (getattr(value, count) is None) == (value.share is None):
        raise UserError(f"{type(value).__name__}: give {count}, or share, and not both")


def even_deviation(std: float, terms: int) -> float:
    """Deviation of two factors' values, so that a sum of `terms` products of them has the deviation `std`."""
    return math.sqrt(std / math.sqrt(terms))


def low_rank_error(rank: int, shape: Shape) -> float:
    """Energy that a Gaussian matrix has outside of its `rank` largest singular values, as a share, if it is large."""
    shorter, longer = sorted(shape)
    return 0.0 if rank >= shorter else error_outside(rank / shorter, shorter / longer)


@cache
def error_outside(part: float, aspect: float) -> float:
    """Share of energy outside of the largest `part` of the singular values, of sides whose quotient is `aspect`.

    By the law of Marchenko and Pastur (1967), whose squared singular values are 1 + c + 2 sqrt(c) cos(phi) in units of
    the longer side, c being the aspect, with the density (2 / pi) sin^2(phi) / (that): an integral for the number of
    those above some phi, and a closed form for their energy. It holds in the limit of entries of any law of unit
    variance.
    """
    c = aspect

    def above(phi: float) -> float:
        def density(x: float) -> float:
            return 2 / math.pi * math.sin(x) ** 2 / (1 + c + 2 * math.sqrt(c) * math.cos(x))

        return quad(density, 0, phi, epsabs=1e-12)[0]

    phi: float = brentq(  # pyright: ignore[reportAssignmentType]
        lambda phi: above(phi) - part, 0, math.pi, xtol=1e-12
    )
    return 1 - (phi - math.sin(phi) * math.cos(phi)) / math.pi
