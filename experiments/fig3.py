"""Figure 3 of arXiv 2506.01863: integers against floating point of equal bits, ordered by their Gaussian error.

Claim: E2M1 and INT4 are about equal; among the formats of 4, of 6 and of 8 bits the order by GMSE is the order by loss;
capacity is .75 to .9 at 4 bits, .9 to 1 at 6, about 1 at 8. All are trained with QuEST's recipe. E1M2 and E3M0 are not
in the paper's figure: two formats of four bits have no order to speak of.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

FORMATS = {
    4: ("int4", "e2m1", "e1m2", "e3m0"),
    6: ("int6", "e2m3", "e3m2", "e4m1"),
    8: ("int8", "e2m5", "e3m4", "e4m3", "e5m2", "e6m1"),
}
SEEDS = (0, 1, 2)
"""Three: formats of equal bits are close."""


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format at two sizes, and the dense curve."""
    grid = Grid(ladder, data)
    every = [Representation(operand(name), hadamard=128) for names in FORMATS.values() for name in names]
    return [*grid.over(every, seeds=SEEDS), *grid.dense()]
