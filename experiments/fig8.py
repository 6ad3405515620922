"""Figure 8 of arXiv 2506.01863: three factors at once, sparsity and bits of the weights and bits of the activations.

Claim (Finding 3): rho(b, s, c) = rho(b) rho(s) rho(c). The paper draws it without numbers.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

WEIGHT_BITS = (2, 4, 16)
PERCENT = (0, 50, 75)
ACTIVATION_BITS = (2, 4, 16)


def cells() -> dict[tuple[int, int, int], Representation]:
    """Representations by weight bits, percent pruned and activation bits; 16 bits are not quantized; dense left out."""
    found = {}
    for bits in WEIGHT_BITS:
        for percent in PERCENT:
            for other in ACTIVATION_BITS:
                sparse = f"top{percent}"
                name = "dense" if bits == 16 else f"int{bits}"
                if percent:
                    name = sparse if bits == 16 else f"{sparse}+{name}-dense-scales"
                tokens = operand("dense") if other == 16 else operand(f"int{other}", per_token=True)
                found[bits, percent, other] = Representation(operand(name), tokens, hadamard=128)
    del found[16, 0, 16]
    return found


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every cell, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over(cells().values()), *grid.dense()]
