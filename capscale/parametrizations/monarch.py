"""Monarch matrices: two block-diagonal factors with a transposition between them."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from capscale.checks import check_whole
from capscale.parametrizations.base import Parametrization, Shape, Stored
from capscale.parametrizations.low_rank import even_deviation

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
        """Energy of a slice outside of its largest singular value; by the law of Tracy and Widom, within 2 %.

        The square of that value has the mean and the scale of Ma (arXiv 1203.0839), whose error falls as the slice's
        side to the power -2/3.
        """
        self.arrays(shape)
        n, p = self.slice_of(shape)
        if min(n, p) == 1:
            return 0.0
        roots = math.sqrt(n - 0.5), math.sqrt(p - 0.5)
        mean, scale = sum(roots) ** 2, sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3)
        return 1 - (mean + scale * _MEAN) / (n * p)

    def __str__(self) -> str:
        return f"monarch{self.blocks}"
