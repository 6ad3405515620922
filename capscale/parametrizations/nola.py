"""NOLA: two factors, each a sum of fixed random matrices, of which the coefficients are trained."""

import math
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from capscale.checks import check_real, check_whole
from capscale.parametrizations.base import Parametrization, Shape, Stored, of_share
from capscale.parametrizations.low_rank import even_deviation
from capscale.parametrizations.shuffles import hashed, keys_of

MOST = 2**24
"""Numbers of the random matrices of one factor, which are part of the program: 64 MiB."""


@dataclass(frozen=True)
class Nola(Parametrization):
    """`(sum_i a_i A_i) (sum_j b_j B_j)`, with A_i (in, rank) and B_j (rank, out) random, a and b trained.

    NOLA (arXiv 2310.02556), with Gaussian matrices, for a matrix itself in place of the change of one. Random matrices
    are a function of the seed and the shape, the same in all layers.

    Attributes:
      share: of the entries, in coefficients that are stored, half of them of either factor.
      rank: of the product, at most the smaller side.
      seed: of the random matrices.
    """

    share: float
    rank: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_real(self, "share", above=0, most=1)
        check_whole(self, "rank", least=1)
        check_whole(self, "seed")

    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Coefficients of both factors."""
        if self.rank > min(shape):
            raise self.refused(shape, f"rank={self.rank} is above the smaller side; use {min(shape)} at most")
        count = of_share(self.share, shape, 2)
        if count * self.rank * max(shape) > MOST:
            drawn = f"{count} random matrices a factor are {count * self.rank * max(shape):,} numbers"
            raise self.refused(shape, f"{drawn}; use a smaller share or rank, {MOST:,} numbers at most")
        return {"left": (count,), "right": (count,)}

    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """The same of both: `rank` products of sums over all coefficients add up in an entry."""
        (count,) = self.arrays(shape)["left"]
        return dict.fromkeys(("left", "right"), even_deviation(std, self.rank) / math.sqrt(count))

    def value(self, stored: Stored, shape: Shape) -> Array:
        """The product of both sums."""
        (count,) = self.arrays(shape)["left"]
        exact = jax.lax.Precision.HIGHEST
        left = jnp.tensordot(
            stored["left"], _bases(self.seed, "left", count, (shape[0], self.rank)), 1, precision=exact
        )
        right = jnp.tensordot(
            stored["right"], _bases(self.seed, "right", count, (self.rank, shape[1])), 1, precision=exact
        )
        return jnp.matmul(left, right, precision=exact)

    def gmse(self, shape: Shape) -> None:
        """Unknown: no closed form of the nearest such product."""

    def __str__(self) -> str:
        return f"nola{self.share:g}-r{self.rank}" + (f"-seed{self.seed}" if self.seed else "")


@cache
def _bases(seed: int, side: str, count: int, shape: Shape) -> np.ndarray:
    """Random matrices (count, *shape) of standard Gaussian numbers, by the method of Box and Muller (1958)."""
    total = count * shape[0] * shape[1]
    keys, flat = keys_of(seed, f"nola {side}"), np.arange(total, dtype=np.uint32)
    first, second = ((hashed(flat, key).astype(np.float64) + 0.5) / 2**32 for key in keys[:2])
    normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    return normal.astype(np.float32).reshape(count, *shape)
