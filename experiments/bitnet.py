"""BitNet b1.58 (arXiv 2402.17764) with the mean, the median (arXiv 2407.09527) and the scale of least error, trained.

Ternary weights, one scale a matrix, trained straight-through; activations of 8 bits per token at their largest
magnitude, as BitNet has them, and dense. BitNet's own norm ahead of every layer is left out: the models are the
ladder's. Statements: the median is worth more than the mean; so is the scale of least Gaussian error (GMSE .19, for .26
of the mean and .32 of the median), as a capacity of GMSE would have it; activations of 8 bits cost nothing.

Run: `capscale sweep bitnet --ladder nano --out runs/bitnet`, 48 runs, then
`python scripts/judge_experiment.py bitnet experiments/results/bitnet.csv`. Rows and verdicts:
experiments/results/README.md.
"""

import math
from collections.abc import Callable, Iterable
from itertools import product

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import difference, estimates_of
from capscale.analysis.evidence import Evidence, interval
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE_OPERAND, Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

SEEDS = (0, 1, 2)
ACTIVATIONS = operand("absmax-mid-tread-int8", per_token=True)
SCALES = {"mean": "ternary-mean", "median": "ternary-median", "least error": "ternary-matrix [straight-through]"}


def representation(scale: str, *, compressed: bool = True) -> Representation:
    """Ternary weights with one of `SCALES`, and 8-bit activations, or dense ones."""
    return Representation(operand(SCALES[scale]), ACTIVATIONS if compressed else DENSE_OPERAND)


def _better(scale: str, source: str, paper: float) -> Claim:
    return Claim(
        name=f"{scale.replace(' ', '-')}-above-mean",
        says=f"The {'median' if scale == 'median' else 'scale of least error'} is worth more than the mean.",
        source=source,
        effect="ln(rho / rho of the mean), with activations of 8 bits and without, averaged",
        accepted=(0.0, math.inf),
        why="its sign",
        paper=paper,
        null=0.0,
        deviation=0.04,
    )


STATEMENTS = (
    _better("median", "arXiv 2407.09527; no number of capacity: what a test should not miss", 0.15),
    _better("least error", "capacity as a function of GMSE: .335 for .257 by Table 3 of arXiv 2506.01863", 0.27),
    Claim(
        name="activations-for-nothing",
        says="Activations of 8 bits per token cost nothing.",
        source="arXiv 2402.17764, which has no other",
        effect="ln(rho with them / rho without), mean over the scales",
        accepted=(-0.1, 0.1),
        why="a tenth of the parameters either way",
        paper=0.0,
        deviation=0.03,
    ),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every scale with and without compressed activations at the middle two sizes, and the dense curve."""
    grid = Grid(ladder, data)
    every = [representation(scale, compressed=both) for scale, both in product(SCALES, (True, False))]
    return [*grid.over(every, grid.two, SEEDS), *grid.dense()]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Differences of ln rho of these rows."""

    def averaged(pairs: Iterable[tuple[Representation, Representation]]) -> Estimate:
        return interval(np.mean([difference(evidence, *pair) for pair in pairs], axis=0))

    def above_mean(scale: str) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            return averaged(
                (representation(scale, compressed=both), representation("mean", compressed=both))
                for both in (True, False)
            )

        return effect

    def activations() -> Estimate:
        return averaged((representation(scale), representation(scale, compressed=False)) for scale in SCALES)

    names = [claim.name for claim in STATEMENTS]
    return estimates_of(dict(zip(names, (above_mean("median"), above_mean("least error"), activations), strict=True)))
