"""Figure 7 of arXiv 2506.01863: capacity of sparse, then quantized weights is the product of both, with QuEST.

Claim (Finding 3): rho(s, b) = rho(s) rho(b), sparsities 0 to 75 % and 2 to 8 bits; printed as a matrix of 5 x 4. The
paper does not say whether the mask is taken before the rotation or after it: both are run, against their own factors.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

BITS = (2, 3, 4, 8)
PERCENT = (25, 50, 75)
AFTER, BEFORE = "mask after the rotation", "mask before the rotation"


def cells(order: str) -> dict[tuple[int, int], Representation]:
    """Representations by bits (16: not quantized) and percent pruned (0: not sparse), the dense one left out."""
    integers = {(bits, 0): Representation(operand(f"int{bits}"), hadamard=128) for bits in BITS}
    if order == AFTER:
        sparse = {(16, percent): Representation(operand(f"top{percent}"), hadamard=128) for percent in PERCENT}
        both = {
            (bits, percent): Representation(operand(f"top{percent}+int{bits}-dense-scales"), hadamard=128)
            for bits in BITS
            for percent in PERCENT
        }
        return integers | sparse | both
    sparse = {(16, percent): Representation(operand(f"top{percent}")) for percent in PERCENT}
    both = {
        (bits, percent): Representation(operand(f"top{percent}+rotated-int{bits}"))
        for bits in BITS
        for percent in PERCENT
    }
    return integers | sparse | both


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Both orders, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over([*cells(AFTER).values(), *cells(BEFORE).values()]), *grid.dense()]
