"""Section 5.1 of arXiv 2506.01863: weights of two bits give the best model of a given size in memory.

Claim: of integer weights, those of 2 bits have the most capacity per bit, N rho at a fixed number of bytes; on the
paper's numbers and on ours.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

BITS = (1, 2, 3, 4, 8)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over(Representation(operand(f"int{bits}"), hadamard=128) for bits in BITS), *grid.dense()]
