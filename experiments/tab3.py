"""Table 3 of arXiv 2506.01863: the law in two families of models, Llama and OLMo2.

Claim: alpha, beta and E are the family's and its text's, and so are F and C of the capacity curve: 0.41 +- 0.02 and
1.39 +- 0.08 (Llama, C4), 0.37 +- 0.04 and 1.24 +- 0.13 (OLMo2, ClimbMix). Models below 30M say nothing about alpha,
beta and E, but have an F and a C.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import LADDERS, Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

FORMATS = tuple(f"int{bits}" for bits in range(1, 9))
OTHER = {"nano": "nano-olmo2", "micro": "micro-olmo2", "paper": "paper-olmo2"}
"""The ladder of the second family."""


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Integers and the dense curve in both families."""
    of_second = LADDERS.get(OTHER.get(ladder.name, ""))
    every = [Representation(operand(name), hadamard=128) for name in FORMATS]
    grids = [Grid(each, data) for each in (ladder, of_second) if each is not None]
    return [run for grid in grids for run in [*grid.over(every), *grid.dense()]]
