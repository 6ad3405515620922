"""Dense, then quantization-aware training: at which share of the steps to switch.

INT4 and INT2 weights under a Hadamard rotation from the start on, or from 25, 50, 75 or 90 % of the steps, with dense
models of the same sizes, at two seeds. The rest of the recipe is the same for all: one warm-up and one decay of the
learning rate over the whole run, so that a late switch trains at low rates.

Statements, from compute-optimal QAT (arXiv 2509.22935) and fine-tuned QAT in general, judged by differences of losses
at equal size and seed (`capscale.analysis.contrasts`): a switch at 25 or 50 % costs nothing at 4 bits; some dense
training first is better than none; a switch at 90 % costs, and more at 2 bits than at 4.

Run: `capscale sweep dense_then_qat --ladder nano --out runs/switch`, 44 runs; then
`python scripts/judge_experiment.py dense_then_qat experiments/results/dense_then_qat.csv`. Rows and verdicts:
experiments/results/README.md.
"""

import math
from itertools import product

from capscale.analysis.claims import Claim, Estimate, above_zero
from capscale.analysis.contrasts import Contrast, between, combined, estimates_by_name, mean_of
from capscale.analysis.evidence import Evidence
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.policy import Frozen, Rule
from capscale.representation import DENSE, Representation, operand
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

FORMATS = ("int4", "int2")
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Of the steps, at which the format begins."""
SMALL = 0.02
"""Nats per token, a hundredth of the loss of these models."""


STATEMENTS = (
    Claim(
        "early-for-nothing",
        "At 4 bits a switch at 25 or 50 % of training costs nothing.",
        "arXiv 2509.22935: the best share of quantized training lies well below all of it",
        "loss with int4 from 25 and 50 % on less that with int4 from the start, mean of both",
        (-math.inf, SMALL),
        "a hundredth of the loss at most; a gain is no cost",
        0.0,
        deviation=0.007,
    ),
    above_zero(
        "dense-first",
        "Some dense training first is better than none.",
        "arXiv 2509.22935, of equal compute",
        "loss with a format from the start less that from 25 and 50 % on, mean over both shares and formats",
        paper=SMALL,
        deviation=0.006,
    ),
    above_zero(
        "late-costs",
        "A switch at 90 % of training costs.",
        "arXiv 2509.22935: the best share grows with tokens per byte of parameters",
        "loss with a format from 90 % on less that from the start, mean over the formats",
        paper=SMALL,
        deviation=0.007,
    ),
    above_zero(
        "late-costs-more-at-2",
        "A switch at 90 % costs more at 2 bits than at 4.",
        "arXiv 2509.22935: fewer bits take more quantized training",
        "that cost of int2 less that of int4",
        paper=SMALL,
        deviation=0.012,
    ),
)


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


def contrasts() -> dict[str, Contrast]:
    """Contrast of every statement."""

    def later(name: str, share: float) -> Contrast:
        return between(policy(name, share), policy(name, 0.0))

    early = {name: mean_of(later(name, share) for share in (0.25, 0.5)) for name in FORMATS}
    late = {name: later(name, 0.9) for name in FORMATS}
    return {
        "early-for-nothing": early["int4"],
        "dense-first": combined([(mean_of(early.values()), -1.0)]),
        "late-costs": mean_of(late.values()),
        "late-costs-more-at-2": combined([(late["int2"], 1.0), (late["int4"], -1.0)]),
    }


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """The contrasts of these rows."""
    return estimates_by_name(evidence, contrasts())
