"""CAGE (arXiv 2510.18784) and the decay of PV-Tuning (arXiv 2405.14852) beside plain straight-through training.

Weights of 4 and 2 bits, and weights and activations of 4 bits, on grids of least Gaussian error in a rotated basis,
trained straight-through (`HadamardMSEQuantizer` of QuEST's and CAGE's training script), with the correction and
without, and dense runs. Statement of the paper (abstract of its first version): CAGE recovers over 10 % of the rise of
the loss that quantization makes, at 4 bits of weights and activations. Strength 10 and silence .8 are those of a public
copy of the authors' script. PV-Tuning states no number for training from the beginning; its decay is tried at .1.

Run: `capscale sweep cage --ladder nano --out runs/cage`, 32 runs, then
`python scripts/judge_experiment.py cage experiments/results/cage.csv`. Rows and verdicts:
experiments/results/README.md.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence
from capscale.analysis.paired import losses, ratio, together
from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.train.corrections import Cage, Correction, DeltaDecay
from capscale.train.grid import Grid
from capscale.train.run import Run

SEEDS = (0, 1)
CAGE, DECAY = Cage(), DeltaDecay(0.1)
STRAIGHT = "[straight-through]"
HELD = {
    "w4a4": Representation(operand(f"int4 {STRAIGHT}"), operand(f"int4 {STRAIGHT}", per_token=True), hadamard=128),
    "w4": Representation(operand(f"int4 {STRAIGHT}"), hadamard=128),
    "w2": Representation(operand(f"int2 {STRAIGHT}"), hadamard=128),
}
"""Weights and activations of 4 bits, and weights alone of 4 and of 2."""
TRIED: tuple[tuple[str, Correction], ...] = (("w4a4", CAGE), ("w4", CAGE), ("w2", CAGE), ("w2", DECAY))


def _recovers(name: str, held: str, correction: str, source: str, least: float) -> Claim:
    return Claim(
        name=name,
        says=f"{correction} recovers {'over a tenth' if least else 'some'} of the rise that {held} makes.",
        source=source,
        effect="(loss straight-through - loss corrected) / (loss straight-through - dense), over sizes and seeds",
        accepted=(least, math.inf),
        why="the paper's own bound" if least else "its sign",
        paper=0.1,
        null=0.0,
        deviation=0.1,
    )


STATEMENTS = (
    _recovers("cage-w4a4", "w4a4", "CAGE", "arXiv 2510.18784v1, abstract", 0.1),
    _recovers("cage-w4", "w4", "CAGE", "no number of weights alone: what a test should not miss", 0.0),
    _recovers("cage-w2", "w2", "CAGE", "no number of 2 bits: what a test should not miss", 0.0),
    _recovers("decay-w2", "w2", "A decay of .1", "arXiv 2405.14852; no number of training from the beginning", 0.0),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every representation with and without its corrections, and dense, at the lower two sizes of the grid."""
    grid = Grid(ladder, data)
    chosen = [(DENSE, None), *((held, None) for held in HELD.values()), *((HELD[name], c) for name, c in TRIED)]
    found = []
    for size, (held, correction), seed in product(grid.four[2:], chosen, SEEDS):
        plain = grid.run(size, held, seed=seed)
        found.append(replace(plain, optimizer=replace(plain.optimizer, correction=correction)))
    return found


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Shares of the rise of the loss, by pairs of one size and seed."""

    def recovered(held: str, correction: Correction) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            columns = [losses(evidence, HELD[held]), losses(evidence, HELD[held], correction.name)]
            straight, corrected, dense = together(*columns, losses(evidence, DENSE))
            return ratio(straight - corrected, straight - dense)

        return effect

    names = [claim.name for claim in STATEMENTS]
    return estimates_of(dict(zip(names, (recovered(*tried) for tried in TRIED), strict=True)))
