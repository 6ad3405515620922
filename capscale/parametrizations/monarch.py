"""Monarch matrices: two block-diagonal factors with a transposition between them."""

import math
from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.special import gammainc, gammaln

from capscale.checks import check_whole
from capscale.parametrizations.base import Parametrization, Shape, Stored
from capscale.parametrizations.low_rank import even_deviation

Array64 = NDArray[np.float64]
MOST_EXACT, PIECES = 12, 4000
"""Roots up to which float64 holds the exact law, and pieces that it is summed over."""
_MEAN = -1.2065335745820
"""Of the law of Tracy and Widom for real matrices (1996; the digits are Bornemann's, arXiv 0904.1581)."""


@dataclass(frozen=True)
class Monarch(Parametrization):
    """`blocks` x `blocks` slices of the matrix, each of rank 1 (arXiv 2204.00595, for any two sides).

    Inputs in `blocks` runs are multiplied by a block each, to one number for every run of outputs; what meets in a run
    of outputs is multiplied by a block there.
    """

    blocks: int

    def __post_init__(self) -> None:
        check_whole(self, "blocks", least=2)

    def arrays(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """One block for every run of inputs, and one for every run of outputs."""
        if any(side % self.blocks for side in shape):
            both = math.gcd(*shape)
            raise self.refused(shape, f"blocks={self.blocks} does not divide both; choose a divisor of {both}")
        inputs, outputs = self.slice_of(shape)
        return {"first": (self.blocks, inputs, self.blocks), "second": (self.blocks, self.blocks, outputs)}

    def slice_of(self, shape: Shape) -> Shape:
        """Shape of a slice of rank 1."""
        return shape[0] // self.blocks, shape[1] // self.blocks

    def deviations(self, shape: Shape, std: float) -> dict[str, float]:
        """The same of both: an entry is one product."""
        return dict.fromkeys(("first", "second"), even_deviation(std, 1))

    def value(self, stored: Stored, shape: Shape) -> Array:
        """An outer product in every slice: from run a of the inputs to run c of the outputs."""
        first_aic, second_cao = stored["first"], stored["second"]
        inputs = jnp.moveaxis(first_aic, -1, 1)[:, :, :, None]
        outputs = jnp.moveaxis(second_cao, 1, 0)[:, :, None, :]
        slices_acio = jnp.broadcast_to(inputs, (*inputs.shape[:3], outputs.shape[3])) * jnp.broadcast_to(
            outputs, (*inputs.shape[:3], outputs.shape[3])
        )
        return jnp.moveaxis(slices_acio, 2, 1).reshape(shape)

    def gmse(self, shape: Shape) -> float:
        """Energy of a slice outside of its largest singular value; exact to the side of 12, then within .5 %."""
        self.arrays(shape)
        n, p = self.slice_of(shape)
        if min(n, p) == 1:
            return 0.0
        return 1 - _largest_energy(min(n, p), max(n, p)) / (n * p)

    def __str__(self) -> str:
        return f"monarch{self.blocks}"


@cache
def _largest_energy(fewer: int, more: int) -> float:
    """Mean square of the largest singular value of a Gaussian matrix (fewer, more)."""
    if fewer > MOST_EXACT:
        # Mean and scale of Ma (arXiv 1203.0839), whose error falls as the side to the power -2/3.
        roots = math.sqrt(fewer - 0.5), math.sqrt(more - 0.5)
        return sum(roots) ** 2 + sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3) * _MEAN
    edges = np.linspace(0, 1.6 * (math.sqrt(fewer) + math.sqrt(more)) ** 2 + 40, PIECES + 1)
    beyond = 1 - np.concatenate([[0.0], _below(fewer, more, edges)])
    return float(np.sum(np.diff(edges) * (beyond[1:] + beyond[:-1]) / 2))


def _below(fewer: int, more: int, edges: Array64) -> Array64:
    """Probability that the largest root of a real Wishart matrix is below each of the edges but the first, 0.

    A Pfaffian of double integrals of the roots' density (de Bruijn 1955): of `sign(y - x) f(x) g(y)` for every two of
    as many gamma densities f, g as there are roots, and of the densities alone beside them where that is odd.
    """
    shapes = (more - fewer + 1) / 2 + np.arange(fewer)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    half = np.diff(edges)[:, None] / 2
    y = (edges[1:] + edges[:-1])[:, None] / 2 + half * nodes
    a = shapes[:, None, None]
    density = np.exp((a - 1) * np.log(y / 2) - y / 2 - gammaln(a)) / 2
    inside = np.einsum("ikq,jkq,kq->kij", gammainc(a, y / 2), density, half * weights)
    matrix = np.cumsum(inside - np.swapaxes(inside, 1, 2), axis=0)
    if fewer % 2:
        alone = gammainc(shapes, edges[1:, None] / 2)
        matrix = np.pad(matrix, ((0, 0), (0, 1), (0, 1)))
        matrix[:, :-1, -1], matrix[:, -1, :-1] = alone, -alone
    pfaffian = np.sqrt(np.maximum(np.linalg.det(matrix), 0))
    return pfaffian / pfaffian[-1]
