"""Table 1 of arXiv 2506.01863: how well each law fits the losses of sparse and of quantized models.

Claim: RMSE of L on sparse models 5.7e-4 for Frantar's law of sparsity, 4.2e-4 with a free capacity for each format
("decoupled"), 4.7e-4 with tanh of GMSE; on quantized models 4.5e-3 for Kumar's law, 1.9e-3 decoupled, 2.1e-3 tanh.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

QUANTIZED = tuple(f"int{bits}" for bits in range(1, 9))
SPARSE = tuple(f"top{percent}" for percent in (10, 30, 50, 70, 90))


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers and sparsities at four sizes, the dense curve, and dense runs on less text."""
    grid = Grid(ladder, data)
    every = [Representation(operand(name), hadamard=128) for name in QUANTIZED]
    every += [Representation(operand(name)) for name in SPARSE]
    return [*grid.over(every, grid.four), *grid.dense(), *grid.shorter()]
