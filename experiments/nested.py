"""MatQuant (arXiv 2502.06786): one tensor of 8, 4 and 2 bits, beside integers of each width trained alone.

Weights from the smallest value of a row to its largest, trained straight-through (the source's QAT has that range), the
mean loss over the widths; integers of 8, 4 and 2 bits alone; and the grid of the 2-bit slice alone, whose Gaussian
error is .63 times that of integers of 2 bits over the same range. Statement of the paper (abstract of its third
version): models of 2 bits that are extracted outperform standard quantization to 2 bits, by up to 7 % of accuracy with
QAT. It is asked of losses here, whether training together does so beyond what the grid of the slice does, and whether
the 4 and 8 bits stay what they are alone.

Run: `capscale sweep nested --ladder nano --out runs/nested`, 20 runs, then
`python scripts/judge_experiment.py nested experiments/results/nested.csv`. Rows and verdicts:
experiments/results/README.md.
"""

import math
from dataclasses import replace
from itertools import product

from capscale.analysis.claims import Claim, Estimate, above_zero
from capscale.analysis.contrasts import between, estimates_by_name
from capscale.analysis.evidence import Evidence
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

TOGETHER = "nested-8-4-2"
ALONE = "nested-8-4-2-weighted-0-0-1"
"""The grid of the 2-bit slice, trained for itself."""
UNTRAINED = (ALONE, f"{ALONE}-at4")
"""Widths of it that no loss was of: their rows are of no model that anybody trained."""


def held(name: str) -> Representation:
    """Weights of a format, straight-through."""
    return Representation(operand(f"{name} [straight-through]"))


TRAINED = tuple(held(name) for name in (TOGETHER, ALONE, "affine-int2", "affine-int4", "affine-int8"))


def _above(name: str, says: str, effect: str) -> Claim:
    source = "arXiv 2502.06786v3, abstract, of accuracy; in nats what a test should not miss"
    return above_zero(
        name, says, source, f"{effect}, mean over sizes and seeds, nats per token", paper=0.03, deviation=0.01
    )


def _as_alone(bits: int) -> Claim:
    return Claim(
        name=f"as-int{bits}",
        says=f"The slice of {bits} bits loses nothing beside integers of {bits} bits trained alone.",
        source="arXiv 2502.06786; no number in its abstract",
        effect=f"loss of the slice less loss of integers of {bits} bits, mean over sizes and seeds, nats per token",
        accepted=(-math.inf, 0.02),
        why="as much as the losses of two seeds lie apart",
        paper=0.0,
        deviation=0.01,
    )


STATEMENTS = (
    _above(
        "above-int2",
        "The slice of 2 bits outperforms integers of 2 bits trained alone.",
        "loss of integers of 2 bits less loss of the slice",
    ),
    _above(
        "above-its-grid",
        "Trained with the wider ones, the slice of 2 bits outperforms its own grid trained alone.",
        "loss of the grid alone less loss of the slice",
    ),
    _as_alone(4),
    _as_alone(8),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """All formats at the middle two sizes of the grid; seeds of one program together."""
    grid = Grid(ladder, data)
    every = product(grid.two, TRAINED, SEEDS)
    return [grid.run(size, representation, seed=seed) for size, representation, seed in every]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Contrasts of losses at equal size and seed, of the slices as they were trained together and of formats alone.

    Their scatter is that of widths that were trained: the others lie apart by seed up to ten times as far, and scatter
    is taken to be alike in a cell.
    """
    trained = replace(evidence, records=tuple(r for r in evidence.records if r.get("weights") not in UNTRAINED))
    slice2 = held(f"{TOGETHER}-at2")
    contrasts = {
        "above-int2": between(held("affine-int2"), slice2),
        "above-its-grid": between(held(f"{ALONE}-at2"), slice2),
        "as-int4": between(held(f"{TOGETHER}-at4"), held("affine-int4")),
        "as-int8": between(held(TOGETHER), held("affine-int8")),
    }
    return estimates_by_name(trained, contrasts)
