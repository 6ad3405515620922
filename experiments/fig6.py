"""Figure 6 of arXiv 2506.01863: capacity of integer weights and integer activations is the product of both.

Claim (Finding 3): rho(INT b weights, INT c activations) = rho(b) rho(c), 1 to 4 bits and dense, with QuEST; printed as
a matrix of 5 x 5. It misses at 2 bits and below, where what is measured lies above the product.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

BITS = (1, 2, 3, 4)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """All pairs, either alone, and the dense curve."""
    grid = Grid(ladder, data)
    weights = [*(operand(f"int{bits}") for bits in BITS), operand("dense")]
    tokens = [*(operand(f"int{bits}", per_token=True) for bits in BITS), operand("dense")]
    every = [Representation(w, a, hadamard=128) for w in weights for a in tokens][:-1]
    return [*grid.over(every), *grid.dense()]
