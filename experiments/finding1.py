"""Finding 1 of arXiv 2506.01863: inside a kind of representation, capacity is one function of the Gaussian error.

Claim: rho is a function of GMSE alone, the same for all instances of one kind: all integers, all sparsities, all
codebooks of one dimension. Whether one function serves all kinds is asked beside it.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

KINDS = {
    "integers": tuple(f"int{bits}" for bits in range(1, 9)),
    "floats": ("e2m1", "e2m3", "e3m2", "e3m4"),
    "sparsity": tuple(f"top{percent}" for percent in (10, 30, 50, 70, 90)),
    "codebooks of dimension 2": ("higgs-d2-n4", "higgs-d2-n8", "higgs-d2-n16", "higgs-d2-n64", "higgs-d2-n256"),
}
ROTATED = ("integers", "floats", "codebooks of dimension 2")


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format of every kind, and the dense curve."""
    grid = Grid(ladder, data)
    every = [
        Representation(operand(name), hadamard=128 if kind in ROTATED else None)
        for kind, names in KINDS.items()
        for name in names
    ]
    return [*grid.over(every), *grid.dense()]
