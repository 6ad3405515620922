"""Figures 5d and 11 of arXiv 2506.01863: which gradient a sparse weight should get, at 10 to 90 % sparsity.

Claim: the paper's RBBM (`b-rms`) has more capacity than magnitude pruning with the forward mask (`fw`) at every
sparsity, by more than 20 % in some; RigL has less than both; on a schedule of growing sparsity (GMP) the two gradients
do not differ from 40 % on.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

PERCENT = (10, 30, 50, 70, 90)
METHODS = {
    "RBBM": "top{} [b-rms 0.1]",
    "magnitude": "top{} [fw]",
    "RigL": "rigl{} [fw]",
    "RigL, every step": "rigl{}-every1 [fw]",
    "GMP": "gmp{} [fw]",
    "GMP with RBBM": "gmp{} [b-rms 0.1]",
}


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every method at every sparsity, and the dense curve."""
    grid = Grid(ladder, data)
    every = [Representation(operand(text.format(percent))) for text in METHODS.values() for percent in PERCENT]
    return [*grid.over(every), *grid.dense()]
