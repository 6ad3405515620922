"""Sums of Kronecker products of two small matrices."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from capscale.checks import check_real, check_whole
from capscale.parametrizations.base import Shape, Stored, of_share
from capscale.parametrizations.low_rank import OfRank, check_one_given, even_deviation


@dataclass(frozen=True)
class KroneckerSum(OfRank):
    """`sum_i A_i kron B_i`: each side of A is the divisor of the matrix's side that is nearest below its root.

    The entries, rearranged so that each place of A is a row (Van Loan and Pitsianis, 1993), are a matrix of rank
    `terms`.

    Attributes:
      terms: how many products; or
      share: of the entries, in numbers that are stored: as many products as they pay for, 1 at least.
    """

    terms: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        check_whole(self, "terms", least=1, optional=True)
        check_real(self, "share", above=0, most=1, optional=True)
        check_one_given(self, "terms")

    @property
    def count(self) -> int | None:
        """How many products; None of a share."""
        return self.terms

    def rank_of(self, shape: Shape) -> int:
        """How many products a matrix of this shape has; UserError for more than make every matrix."""
        places = self.sides(shape)
        if self.terms is None:
            return min(of_share(self.share or 0, shape, sum(places)), *places)
        if self.terms > min(places):
            raise self.refused(shape, f"terms={self.terms} are more than make any matrix; use {min(places)} at most")
        return self.terms

    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """All A, and all B."""
        terms, (rows, columns) = self.rank_of(shape), first_sides(shape)
        return {"A": (terms, rows, columns), "B": (terms, shape[0] // rows, shape[1] // columns)}

    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """The same of both, as `terms` products add up in an entry."""
        return dict.fromkeys(("A", "B"), even_deviation(std, self.rank_of(shape)))

    def value(self, stored: Stored, shape: Shape) -> Array:
        """The sum of the products."""
        terms = jnp.einsum("kac,kbd->abcd", stored["A"], stored["B"], precision=jax.lax.Precision.HIGHEST)
        return terms.reshape(shape)

    def sides(self, shape: Shape) -> Shape:
        """Places of A, and places of B."""
        rows, columns = first_sides(shape)
        return rows * columns, (shape[0] // rows) * (shape[1] // columns)

    def arranged(self, x: Array) -> Array:
        """Entries with a row for every place of A and a column for every one of B, whose rank counts the terms."""
        shape = x.shape[-2], x.shape[-1]
        rows, columns = first_sides(shape)
        apart = x.reshape(*x.shape[:-2], rows, shape[0] // rows, columns, shape[1] // columns)
        return apart.swapaxes(-3, -2).reshape(*x.shape[:-2], *self.sides(shape))

    def arranged_back(self, x: Array, shape: Shape) -> Array:
        """The matrix of entries that stand so."""
        rows, columns = first_sides(shape)
        apart = x.reshape(*x.shape[:-2], rows, columns, shape[0] // rows, shape[1] // columns)
        return apart.swapaxes(-3, -2).reshape(*x.shape[:-2], *shape)

    def __str__(self) -> str:
        return f"kronecker{self.share:g}" if self.terms is None else f"kronecker-k{self.terms}"


def first_sides(shape: Shape) -> Shape:
    """Rows and columns of A: the largest divisor of each side that is not above its root."""
    rows, columns = (next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0) for size in shape)
    return rows, columns
