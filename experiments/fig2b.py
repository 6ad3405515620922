"""Figure 2b of arXiv 2506.01863: capacity of sparse weights and sparse activations is the product of both.

Claim (Finding 3): rho(s, t) = rho(s, 0) rho(0, t) for sparsities s of the weights and t of the activations, 0 to 80 %,
within .01, printed as a matrix of 5 x 5; its misses are above the product.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

PERCENT = (20, 40, 60, 80)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """All pairs, either alone, and the dense curve."""
    grid = Grid(ladder, data)
    weights = [operand("dense"), *(operand(f"top{percent}") for percent in PERCENT)]
    tokens = [operand("dense"), *(operand(f"top{percent}", per_token=True) for percent in PERCENT)]
    return [*grid.over([Representation(w, a) for w in weights for a in tokens][1:]), *grid.dense()]
