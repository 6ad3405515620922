"""Stored numbers and what they buy: shared weights, low rank, Kronecker sums, Monarch, NOLA, trained, beside pruning.

Parametrizations store other numbers than the matrix, and train those; pruning keeps some of its entries, and pays for
their places as well. All have a half, a quarter or an eighth of the numbers of the linear layers, or the nearest that
their shapes allow: `stored_numbers` of a row says how many. Statements, written before any was trained: sharing is
worth more than pruning at equal numbers; a shared number is worth more than a number of a smaller dense model; random
coefficients are worth more than factors, and slices of rank 1 than one low rank; and capacity is not a function of
GMSE: sharing by four is worth more than half the numbers in low rank, which have half the error.

Run: `capscale sweep parametrizations --ladder nano --out runs/parametrizations`, 52 runs, of which the 20 dense and
sparse ones are those of `recipes`, then `python scripts/judge_experiment.py parametrizations
experiments/results/parametrizations.csv`. Rows and verdicts: experiments/results/README.md.
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

PARAMETRIZED = (
    *("shared2", "shared4", "shared8", "lowrank0.5", "lowrank0.25", "kronecker0.25", "monarch4", "nola0.25-r8"),
)
PRUNED = ("top50", "top75")
SOURCE = "arXiv 2310.11611, which measures accuracies of networks for images"


def _above(name: str, says: str, source: str, effect: str, expected: float) -> Claim:
    return Claim(name, says, source, effect, (0.0, math.inf), "its sign", expected, null=0.0, deviation=0.06)


STATEMENTS = (
    _above(
        "sharing-above-pruning",
        "Sharing is worth more than pruning at equal numbers.",
        SOURCE,
        "ln(rho of sharing / rho of pruning), mean over a half and a quarter of the numbers",
        0.2,
    ),
    _above(
        "shared-above-dense",
        "A shared number is worth more than a number of a smaller dense model.",
        SOURCE,
        "ln(rho / stored share), mean over 2, 4 and 8 entries a number",
        0.2,
    ),
    _above(
        "coefficients-above-factors",
        "Random coefficients are worth more than the factors of low rank at equal numbers.",
        "arXiv 2310.02556, of fine-tuning; no number of capacity",
        "ln(rho of nola0.25-r8 / rho of lowrank0.25)",
        0.2,
    ),
    _above(
        "slices-above-factors",
        "A number of slices of rank 1 is worth more than one of low rank.",
        "arXiv 2204.00595, of expressiveness; no number of capacity",
        "ln(rho / stored share) of monarch4, less that of lowrank0.25",
        0.2,
    ),
    _above(
        "capacity-beyond-gmse",
        "Capacity is no function of GMSE: sharing by 4 is worth more than low rank of half the numbers and error.",
        "the nearest point of a set is not what its stored numbers are trained to",
        "ln(rho of shared4 / rho of lowrank0.5)",
        0.3,
    ),
)


def representation(name: str) -> Representation:
    """Weights of a parametrization or a format by its name, all else dense."""
    return find_representation(name)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every parametrization and two sparsities at the middle two sizes and two seeds, and the dense curve.

    Without those that have no such numbers at a size: random matrices of NOLA are too many at the paper's widths.
    """
    grid = Grid(ladder, data)
    shapes = [shape for size in grid.two for shape in ladder.model(size, data.vocabulary).projections.values()]
    held = [representation(name) for name in PARAMETRIZED]
    possible = [each for each in held if each.parametrization and all(map(each.parametrization.has, shapes))]
    return [*grid.over([*possible, *map(representation, PRUNED)]), *grid.dense()]


def stored_share(evidence: Evidence, name: str) -> float:
    """Stored numbers over N, mean over the sizes of a parametrization; the linear layers and all else in N."""
    rows = [record for record in evidence.records if record["weights"] == name]
    return float(np.mean([record["stored_numbers"] / record["N"] for record in rows]))


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Differences of ln rho of these rows, and of ln rho from the logarithm of what is stored."""

    def over(first: str, second: str) -> np.ndarray:
        return difference(evidence, representation(first), representation(second))

    def per_number(name: str) -> np.ndarray:
        (found,) = evidence.stack([evidence.curve(representation(name))])
        return found - math.log(stored_share(evidence, name))

    effects: tuple[Callable[[], np.ndarray], ...] = (
        lambda: (over("shared2", "top50") + over("shared4", "top75")) / 2,
        lambda: np.mean([per_number(name) for name in PARAMETRIZED[:3]], axis=0),
        lambda: over("nola0.25-r8", "lowrank0.25"),
        lambda: per_number("monarch4") - per_number("lowrank0.25"),
        lambda: over("shared4", "lowrank0.5"),
    )
    named = zip(STATEMENTS, effects, strict=True)
    return estimates_of({claim.name: lambda effect=effect: interval(effect()) for claim, effect in named})
