"""Figure 2a of arXiv 2506.01863: vector quantization follows one curve rho(GMSE) for each dimension.

Claim: codebooks of one dimension (1: the optimal scalar grids, 2 and 4: HIGGS) share a curve; that of dimension 4 ends
below dense, Lsat < 1, for the gradient of a codeword is the coarser the longer the vector.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

CODEBOOKS = {1: (2, 4, 8, 16), 2: (4, 8, 16, 64, 256), 4: (16, 256, 4096)}
"""Codewords by dimension; of one dimension the grids of Lloyd and Max."""


def names(dimension: int) -> list[str]:
    """Formats of one dimension."""
    words = CODEBOOKS[dimension]
    return [f"lloyd{n.bit_length() - 1}" if dimension == 1 else f"higgs-d{dimension}-n{n}" for n in words]


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every codebook, rotated, and the dense curve."""
    grid = Grid(ladder, data)
    every = [Representation(operand(name), hadamard=128) for dimension in CODEBOOKS for name in names(dimension)]
    return [*grid.over(every), *grid.dense()]
