"""Figure 1a of arXiv 2506.01863: one curve rho(GMSE) for all integers, and where it ends for learned steps.

Claim: with QuEST's recipe the capacities of INT 1 to 8 follow tanh(F log_1/4 GMSE)^C; Kumar's 1 - exp(-bits / gamma)
misses, at high bits above all. LSQ's learned steps follow the curve with Lsat < 1: more bits never reach dense.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

INTEGERS = (*(f"int{bits}" for bits in (1, 2, 3, 4, 5, 6, 7, 8)), "ternary")
LEARNED = tuple(f"lsq{bits}" for bits in (2, 3, 4, 8))


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers at four sizes, learned steps at two, and the dense curve."""
    grid = Grid(ladder, data)
    return [
        *grid.over([Representation(operand(name), hadamard=128) for name in INTEGERS], grid.four),
        *grid.over([Representation(operand(name)) for name in LEARNED]),
        *grid.dense(),
    ]
