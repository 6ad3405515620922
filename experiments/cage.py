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
from capscale.analysis.contrasts import losses_of, of_losses
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence
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


def _recovers(name: str, held: str, correction: str, source: str, share: float = 0.0) -> Claim:
    of_rise = f", less {share:g} of its own rise over the dense loss" if share else ""
    return Claim(
        name=name,
        says=f"{correction} recovers {'over a tenth' if share else 'some'} of the rise that {held} makes.",
        source=source,
        effect=f"loss straight-through less loss corrected{of_rise}, mean over sizes and seeds, nats per token",
        accepted=(0.0, math.inf),
        why="its sign",
        paper=0.03,
        null=0.0,
        deviation=0.01,
    )


STATEMENTS = (
    _recovers("cage-w4a4", "w4a4", "CAGE", "arXiv 2510.18784v1, abstract; what a test should not miss", 0.1),
    _recovers("cage-w4", "w4", "CAGE", "no number of weights alone: what a test should not miss"),
    _recovers("cage-w2", "w2", "CAGE", "no number of 2 bits: what a test should not miss"),
    _recovers("decay-w2", "w2", "A decay of .1", "arXiv 2405.14852; no number of training from the beginning"),
)
SHARES = (0.1, 0.0, 0.0, 0.0)
"""Of the rise, that is to be recovered by each of them."""


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
    """Contrasts of losses at equal size and seed.

    Their scatter is that of all runs, of statements about CAGE without those with the decay: these did not train, and
    lie apart ten times as far as the others, which the pooled scatter takes to be alike.
    """

    def recovered(held: str, correction: Correction, share: float) -> Callable[[], Estimate]:
        def effect() -> Estimate:
            weights = {evidence.curve(HELD[held]): 1.0 - share, evidence.curve(HELD[held], correction.name): -1.0}
            weights |= {evidence.curve(DENSE): share} if share else {}
            losses = losses_of(evidence)
            if correction != DECAY:
                losses = {curve: cells for curve, cells in losses.items() if not curve.endswith(DECAY.name)}
            return of_losses(losses, weights)

        return effect

    every = [(*tried, share) for tried, share in zip(TRIED, SHARES, strict=True)]
    names = [claim.name for claim in STATEMENTS]
    return estimates_of(dict(zip(names, (recovered(*each) for each in every), strict=True)))
