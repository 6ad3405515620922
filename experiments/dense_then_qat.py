"""Dense, then quantization-aware training: at which share of the steps to switch.

INT4 and INT2 weights under a Hadamard rotation from the start on, or from 25, 50, 75 or 90 % of the steps, with dense
models of the same sizes, at two seeds. The rest of the recipe is the same for all: one warm-up and one decay of the
learning rate over the whole run, so that a late switch trains at low rates.

Expected, from compute-optimal QAT (arXiv 2509.22935) and fine-tuned QAT in general: a switch at 25 or 50 % costs
nothing beyond the scatter of seeds at 4 bits, and 90 % costs more at 2 bits than at 4.
Run: `capscale sweep dense_then_qat --ladder nano --out runs/switch`, 44 runs; `--sizes nano-16 --seeds 0` are 11.
Not run as a whole yet.
"""

from itertools import product

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.policy import Frozen, Rule
from capscale.representation import DENSE, Representation, operand
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

FORMATS = ("int4", "int2")
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Of the steps, at which the format begins."""


def policy(name: str, share: float) -> Frozen:
    """Weights in a format from a share of training on."""
    held = Representation(operand(name), hadamard=128)
    return (Rule(".*", held, starts=share),) if share else held


def policies() -> list[Frozen]:
    """Dense, and every format from every share on."""
    return [DENSE, *(policy(name, share) for name, share in product(FORMATS, SHARES))]


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every policy at the middle two of the ladder's four sizes and two seeds, those of one program together."""
    grid = Grid(ladder, data)
    return [grid.run(size, held, seed=seed) for size, held, seed in product(grid.two, policies(), SEEDS)]
