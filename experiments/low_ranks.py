"""Low rank as a format beside its two factors trained, and low rank as the compensation of two-bit weights.

A matrix is held at the nearest of its rank and trained straight-through (`nearest-lowrank0.5`), or made of the factors,
which are trained (`lowrank0.5`): the same numbers stored. And two bits, with a low rank of an eighth of the numbers for
what they leave, 4 bits in large matrices, beside two and three bits alone. Statements, written before any was
trained: the nearest point is worth more than trained factors, as training moves all of the matrix there; the
compensation is worth something; and more than the third bit, as INT2.1 (arXiv 2306.08162) makes up for two bits. By
GMSE it is not: .119 of two bits is .094 with it, and .037 of three.

Run: `capscale sweep low_ranks --ladder nano --out runs/low_ranks`, 40 runs, of which the dense ones and trained factors
are those of `parametrizations`, then `python scripts/judge_experiment.py low_ranks experiments/results/low_ranks.csv`.
Rows and verdicts: experiments/results/README.md.
"""

import math
from collections.abc import Callable

import numpy as np

from capscale.analysis.claims import Claim, Estimate
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
)


def representation(name: str) -> Representation:
    """Weights of a format or a parametrization by its name, all else dense."""
    return find_representation(name)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every kind at the middle two sizes and two seeds, and the dense curve."""
    grid = Grid(ladder, data)
    names = [*(f"{kind}lowrank{share}" for kind in ("nearest-", "") for share in SHARES), COMPENSATED, TWO, THREE]
    return [*grid.over([representation(name) for name in names]), *grid.dense()]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Differences of ln rho of these rows."""

    def over(first: str, second: str) -> np.ndarray:
        return difference(evidence, representation(first), representation(second))

    effects: tuple[Callable[[], np.ndarray], ...] = (
        lambda: np.mean([over(f"nearest-lowrank{share}", f"lowrank{share}") for share in SHARES], axis=0),
        lambda: over(COMPENSATED, TWO),
        lambda: over(COMPENSATED, THREE),
    )
    named = zip(STATEMENTS, effects, strict=True)
    return estimates_of({claim.name: lambda effect=effect: interval(effect()) for claim, effect in named})
