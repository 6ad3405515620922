"""Figure 9 of arXiv 2506.01863: sparse, then quantized weights with the plain absmax-uniform quantizer.

Claim (Finding 3): rho(s, b) = rho(s) rho(b), sparsities 0 to 90 %, printed for 2, 3, 4 and 8 bits; at 2 bits, where the
quantizer alone is worth .05, the product misses.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

BITS = (2, 3, 4, 8)
PERCENT = (30, 50, 70, 90)


def cells() -> dict[tuple[int, int], Representation]:
    """Representations by percent pruned (0: not sparse) and bits (16: not quantized), the dense one left out."""
    found = {}
    for percent in (0, *PERCENT):
        for bits in (*BITS, 16):
            parts = [f"top{percent}"] * (percent > 0) + [f"absmax-int{bits}"] * (bits < 16)
            if parts:
                found[percent, bits] = Representation(operand("+".join(parts)))
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every cell, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over(cells().values()), *grid.dense()]
