"""Figures 1b and 1c of arXiv 2506.01863: noise of a format's GMSE is worth what the format is.

Claim (Finding 2): training with Gaussian noise of variance GMSE(R) mean(w^2) on the weights (1b), or on weights and
activations (1c), has the capacity of R; so rho(4^-b) bounds what a format of b bits can have, and QuEST is close to it.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

BITS = (1, 2, 3, 4)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers and the noise of their errors, on weights alone and on both operands; noise at 4^-b as the bound."""
    grid = Grid(ladder, data)
    integers = [operand(f"int{bits}") for bits in BITS]
    tokens = [operand(f"int{bits}", per_token=True) for bits in BITS]
    noises = [operand(f"noise-as-int{bits}") for bits in BITS]
    noisy_tokens = [operand(f"noise-as-int{bits}", per_token=True) for bits in BITS]
    return [
        *grid.over(Representation(weights, hadamard=128) for weights in integers),
        *grid.over(Representation(weights) for weights in noises),
        *grid.over(Representation(operand(f"noise{bits}")) for bits in BITS),
        *grid.over(Representation(w, a, hadamard=128) for w, a in zip(integers, tokens, strict=True)),
        *grid.over(Representation(w, a) for w, a in zip(noises, noisy_tokens, strict=True)),
        *grid.dense(),
    ]
