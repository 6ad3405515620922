"""Theorem 1 of arXiv 2506.01863: Adam with AMSGrad on compressed weights, and the distance that bounds its gradient.

Claim: the mean squared gradient is bounded by a term in the run average of ||held - masters||, so that representations
with the larger relative distance are worth less. Every run tells that distance (`weights_realised_error`).
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

ROTATED = ("int8", "int4", "int3", "int2", "int1")
PLAIN = ("top25", "top50", "top75", "2:4", "top25 [fw]", "top50 [fw]", "top75 [fw]")


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every representation at the larger of the middle sizes, with AMSGrad (Algorithm 3): ranks need no dense curve."""
    grid = Grid(ladder, data, amsgrad=True)
    every = [Representation(operand(name), hadamard=128) for name in ROTATED]
    every += [Representation(operand(name)) for name in PLAIN]
    return grid.over(every, grid.two[:1])
