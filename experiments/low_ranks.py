"""Low rank as a format beside its two factors trained, and low rank as the compensation of two-bit weights.

A matrix is held at the nearest of its rank and trained straight-through (`nearest-lowrank0.5`), or made of the factors,
which are trained (`lowrank0.5`): the same numbers stored. And two bits, with a low rank of an eighth of the numbers for
what they leave, 4 bits in large matrices, beside two and three bits alone. Statements, written before any was
trained: the nearest point is worth more than trained factors, as training moves all of the matrix there; the
compensation is worth something; and more than the third bit, as INT2.1 (arXiv 2306.08162) makes up for two bits. By
GMSE it is not: .119 of two bits is .094 with it, and .037 of three.

Written later, before these were trained: the same at one rank in every matrix, a quarter to a sixth of the width; the
low rank found in LoftQ's rounds (arXiv 2310.08659) is worth more than found once, at the ladder's rates and at rates
that low ranks of rounds follow (`SLOW`); it is worth something beside outliers too, which are GEAR's third part (arXiv
2403.05527). A twentieth of a row is kept apart, as a hundredth of 16 values is none.

Run: `capscale sweep low_ranks --ladder nano --out runs/low_ranks`, 72 runs, of which the dense ones and trained factors
of a share are those of `parametrizations`; then
`python scripts/judge_experiment.py low_ranks experiments/results/low_ranks.csv`. Rows and verdicts:
experiments/results/README.md.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.contrasts import losses_of, of_losses
from capscale.analysis.effects import difference, estimates_of
from capscale.analysis.evidence import Evidence, interval
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.policy_names import find_representation
from capscale.representation import Representation
from capscale.train.grid import Grid
from capscale.train.run import Run

SHARES = (0.5, 0.25)
COMPENSATED, TWO, THREE = "int2~lowrank0.125", "int2", "int3"
ROUNDS, OUTLIERS = "int2~lowrank0.125-rounds3", "int2-outliers5"
BOTH = f"{OUTLIERS}~lowrank0.125"
RANK = "lowrank-r4"
SLOW = 0.005
"""A learning rate at which the low rank of rounds follows the weights (docs/parametrizations.md)."""


def _above(name: str, says: str, source: str, effect: str) -> Claim:
    return Claim(name, says, source, effect, (0.0, math.inf), "its sign", 0.2, null=0.0, deviation=0.06)


STATEMENTS = (
    _above(
        "nearest-above-factors",
        "A matrix held at the nearest of its rank is worth more than trained factors of that rank.",
        "no source; what a test should not miss",
        "ln(rho nearest / rho factors), mean over a half and a quarter of the numbers",
    ),
    _above(
        "compensation-above-none",
        "A low rank of an eighth of the numbers makes int2 worth more.",
        "arXiv 2306.08162, of rounding after training; no number of capacity",
        "ln(rho with it / rho of int2)",
    ),
    _above(
        "compensation-above-a-bit",
        "It is worth more than the third bit.",
        "arXiv 2306.08162, of rounding after training; no number of capacity",
        "ln(rho with it / rho of int3)",
    ),
    _above(
        "nearest-above-factors-of-a-rank",
        "A matrix held at the nearest of rank 4 is worth more than trained factors of rank 4.",
        "no source; what a test should not miss",
        "ln(rho nearest / rho factors)",
    ),
    _above(
        "rounds-above-one",
        "A low rank found in three rounds is worth more than one found once.",
        "arXiv 2310.08659, of rounding before training; no number of capacity",
        "ln(rho of three rounds / rho of one)",
    ),
    Claim(
        "rounds-above-one-slow",
        f"The same at a learning rate of {SLOW:g}.",
        "arXiv 2310.08659, of rounding before training; no number of loss",
        "loss of one round less loss of three, mean over sizes and seeds, nats per token",
        (0.0, math.inf),
        "its sign",
        0.03,
        null=0.0,
        deviation=0.01,
    ),
    _above(
        "compensation-beside-outliers",
        "A low rank of an eighth of the numbers makes int2 beside outliers worth more.",
        "arXiv 2403.05527, of keys and values; no number of capacity",
        "ln(rho with it / rho of int2-outliers5)",
    ),
)


def representation(name: str) -> Representation:
    """Weights of a format or a parametrization by its name, all else dense."""
    return find_representation(name)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every kind at the middle two sizes and two seeds, the dense curve, and rounds at a slow rate."""
    grid = Grid(ladder, data)
    names = [*(f"{kind}lowrank{share}" for kind in ("nearest-", "") for share in SHARES), COMPENSATED, TWO, THREE]
    later = [f"nearest-{RANK}", RANK, ROUNDS, OUTLIERS, BOTH]
    usual = [*grid.over([representation(name) for name in names]), *grid.dense()]
    usual += grid.over([representation(name) for name in later])
    slow = grid.over([representation(name) for name in (COMPENSATED, ROUNDS, TWO)])
    return usual + [replace(run, optimizer=replace(run.optimizer, learning_rate=SLOW)) for run in slow]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Differences of ln rho of these rows, and of losses at the slow rate, at which no dense model was trained."""
    usual, slow = (
        replace(evidence, records=tuple(row for row in evidence.records if (row["learning_rate"] == SLOW) is wanted))
        for wanted in (False, True)
    )

    def over(first: str, second: str) -> np.ndarray:
        return difference(usual, representation(first), representation(second))

    def shares() -> Estimate:
        return interval(np.mean([over(f"nearest-lowrank{share}", f"lowrank{share}") for share in SHARES], axis=0))

    def slowly() -> Estimate:
        weights = {slow.curve(representation(name)): sign for name, sign in ((COMPENSATED, 1.0), (ROUNDS, -1.0))}
        return of_losses(losses_of(slow), weights)

    effects: tuple[Callable[[], Estimate], ...] = (
        shares,
        lambda: interval(over(COMPENSATED, TWO)),
        lambda: interval(over(COMPENSATED, THREE)),
        lambda: interval(over(f"nearest-{RANK}", RANK)),
        lambda: interval(over(ROUNDS, COMPENSATED)),
        slowly,
        lambda: interval(over(BOTH, OUTLIERS)),
    )
    return estimates_of(dict(zip((claim.name for claim in STATEMENTS), effects, strict=True)))
