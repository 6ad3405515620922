"""Compressed gradients beside compressed operands of the forward product: forward alone, backward alone, and both.

Five recipes of `capscale.recipes` (nvfp4-pretraining, quartet, quartet2, mxfp4-backward, int8-training) and dense, each
with its forward products alone, its backward products alone and all three, at several numbers of tokens per parameter
and two seeds: whether gradients act on the data's term of a law, as a factor of D, shows where the ratio varies.
mxfp4-backward has a dense forward pass, so that it is one of these. On the nano ladder the smallest size has all
ratios, the others the shorter two, as each of the longer ones takes minutes of a CPU.

Statements, judged by differences of losses at equal size, tokens and seed (`capscale.analysis.contrasts`): at 4 bits
backward products cost less than forward products; the cost of either grows with tokens per parameter; the costs add up;
INT8 costs nothing; and backward products cost where the gradient has fallen below sqrt(3) times their noise, of which
`scripts/gradient_noise.py` tells at the end of training. How gradients are rounded and rotated is the question of
`gradient_rounding`.

Run: `capscale sweep gradients --ladder nano --out runs/gradients`, 168 runs, of which 140 were trained; then
`python scripts/judge_experiment.py gradients experiments/results/gradients.csv`. Rows and verdicts:
experiments/results/README.md.
"""

import math
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from capscale.analysis.claims import Claim, Estimate, above_zero
from capscale.analysis.contrasts import (
    Cell,
    Contrast,
    between,
    combined,
    estimates_by_name,
    losses_of,
    mean_of,
    of_cells,
)
from capscale.analysis.cost_figure import cost_figure
from capscale.analysis.effects import estimates_of
from capscale.analysis.evidence import Evidence
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.config import ModelConfig
from capscale.models.ladder import Ladder
from capscale.recipes import backward_only, find_recipe, forward_only
from capscale.representation import DENSE, Representation
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECIPES = ("nvfp4-pretraining", "quartet", "quartet2", "mxfp4-backward", "int8-training")
FOUR_BIT = ("nvfp4-pretraining", "quartet", "quartet2")
"""Recipes that hold operands of all three products in 4 bits."""
RATIOS = (25, 50, 100, 200)
"""Tokens per parameter, those of the paper's ladders."""
SHORT = (25, 50)
"""Those of all but the smallest size on the nano ladders."""
TILE, SIZES = 16, 3
"""Side of NVFP4's tiles, which has to divide every matrix, and the number of sizes: the smallest that it does."""
SMALL = 0.02
"""Nats per token, a hundredth of the loss of these models."""


STATEMENTS = (
    above_zero(
        "backward-cheaper",
        "At 4 bits the backward products cost less than the forward products.",
        "arXiv 2505.14669, whose law has a capacity of the forward pass and a factor of D of the backward pass",
        "loss with the forward products alone less that with the backward products alone, mean over the 4-bit recipes",
        paper=0.05,
        deviation=0.006,
    ),
    above_zero(
        "backward-grows",
        "What backward products cost grows with tokens per parameter.",
        "arXiv 2505.19115: noise counts where gradients are small, late in training; a factor of D has it fall",
        "slope of the loss with the backward products alone less dense, per e-fold of tokens, mean over the recipes",
        paper=SMALL,
        deviation=0.006,
    ),
    above_zero(
        "forward-grows",
        "What forward products cost grows with tokens per parameter.",
        "a drift of the capacity with D / N; arXiv 2505.14302 has it of quantization-aware training",
        "slope of the loss with the forward products alone less dense, per e-fold of tokens, mean over the 4-bit ones",
        paper=SMALL,
        deviation=0.006,
    ),
    Claim(
        "costs-add",
        "What forward and backward products cost adds up.",
        "any law with a capacity on N and a factor on D, apart",
        "loss with all three products less both halves' alone, plus dense, mean over the 4-bit recipes",
        (-SMALL, SMALL),
        "a hundredth of the loss either way",
        0.0,
        deviation=0.007,
    ),
    Claim(
        "int8-for-nothing",
        "INT8 in all three products costs nothing.",
        "no number of a paper: 255 levels a row leave a relative error of 1e-4",
        "loss with the int8 recipe less dense",
        (-SMALL, SMALL),
        "a hundredth of the loss either way",
        0.0,
        deviation=0.008,
    ),
    above_zero(
        "below-threshold",
        "Backward products cost where the gradient is below sqrt(3) times their noise, and not above.",
        "arXiv 2505.19115, abstract",
        "loss with the backward products alone less dense, mean over the recipes and tokens whose gradient ends below "
        "the threshold less that over the others",
        paper=SMALL,
        deviation=0.006,
    ),
)
THRESHOLD = math.sqrt(3)
"""Norm of the gradient over that of its noise below which FP4 All the Way has training lose its effect."""
SLOPES = {"backward-grows", "forward-grows"}


def representations() -> list[Representation]:
    """Dense, and every recipe's forward products, backward products and both, each once."""
    found = [DENSE]
    for recipe in map(find_recipe, RECIPES):
        found += [forward_only(recipe), backward_only(recipe), recipe]
    return list(dict.fromkeys(found))


def sizes(ladder: Ladder) -> list[str]:
    """The smallest sizes of a ladder whose every matrix has whole tiles, the largest of them first."""
    whole = [size for size, model in ladder.sizes.items() if _is_whole(model)]
    return sorted(whole, key=lambda size: ladder.sizes[size].non_embedding_parameters)[:SIZES][::-1]


def ratios(ladder: Ladder, size: str) -> tuple[int, ...]:
    """Tokens per parameter of a size, the longest first."""
    short = ladder.name.startswith("nano") and size != sizes(ladder)[-1]
    return (SHORT if short else RATIOS)[::-1]


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every representation at every size, ratio and seed."""
    grid = Grid(ladder, data)
    return [
        at_ratio(grid.run(size, held, seed=seed), ratio)
        for size in sizes(ladder)
        for ratio, held, seed in product(ratios(ladder, size), representations(), SEEDS)
    ]


def contrasts() -> dict[str, Contrast]:
    """Contrast of every statement; of those in `SLOPES` its slope is meant."""

    def halves(name: str) -> tuple[Contrast, Contrast]:
        recipe = find_recipe(name)
        return between(forward_only(recipe), DENSE), between(backward_only(recipe), DENSE)

    def coupling(name: str) -> Contrast:
        return combined([(between(find_recipe(name), DENSE), 1.0), *((half, -1.0) for half in halves(name))])

    forward, backward = (mean_of(halves(name)[side] for name in FOUR_BIT) for side in (0, 1))
    return {
        "backward-cheaper": combined([(forward, 1.0), (backward, -1.0)]),
        "backward-grows": mean_of(halves(name)[1] for name in RECIPES),
        "forward-grows": forward,
        "costs-add": mean_of(map(coupling, FOUR_BIT)),
        "int8-for-nothing": between(find_recipe("int8-training"), DENSE),
    }


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """The contrasts of these rows."""
    found = estimates_by_name(evidence, contrasts(), SLOPES)
    return found | estimates_of({"below-threshold": lambda: _below_threshold(evidence)})


def figure(evidence: Evidence) -> "Figure":
    """Costs of all recipes by the products that are compressed, at the smallest size of the rows."""
    recipes = {name: find_recipe(name) for name in RECIPES}
    forward = {name: forward_only(recipe) for name, recipe in recipes.items()}
    compressed = {name for name, held in forward.items() if held != DENSE}
    parts = {
        "forward products": {name: forward[name] for name in RECIPES if name in compressed},
        "backward products": {name: backward_only(recipe) for name, recipe in recipes.items()},
        "all three": {name: recipes[name] for name in RECIPES if name in compressed},
    }
    return cost_figure(evidence, parts, min(row.N for row in evidence.table.rows))


def norm_over_noise(evidence: Evidence) -> dict[tuple[str, Cell], float]:
    """Of every recipe with its backward products alone, by curve and cell: the mean over seeds, at the end of training.

    Raises:
      UserError: rows do not tell it.
    """
    curves = {evidence.curve(backward_only(find_recipe(name))) for name in RECIPES}
    found: dict[tuple[str, Cell], list[float]] = {}
    for row in evidence.table.rows:
        if row.curve in curves:
            ratio = row.extra.get("gradient_norm", math.nan) / row.extra.get("gradient_noise", math.nan)
            found.setdefault((row.curve, (row.N, row.D)), []).append(ratio)
    means = {place: sum(ratios) / len(ratios) for place, ratios in found.items()}
    if not all(map(math.isfinite, means.values())):
        raise UserError("rows do not tell the noise of gradients; scripts/gradient_noise.py adds it")
    return means


def _below_threshold(evidence: Evidence) -> Estimate:
    ratios, losses = norm_over_noise(evidence), losses_of(evidence)
    seeds = {cell: sorted(losses["dense"][cell]) for cell in losses["dense"]}
    whole = {place: ratio for place, ratio in ratios.items() if set(losses[place[0]][place[1]]) >= set(seeds[place[1]])}
    below = {place for place, ratio in whole.items() if ratio < THRESHOLD}
    if not 0 < len(below) < len(whole):
        side = "below" if below else "above"
        raise UserError(
            f"all {len(whole)} recipes and tokens end {side} the threshold, "
            f"at {min(whole.values()):.3g} to {max(whole.values()):.3g}"
        )
    weights: dict[tuple[str, Cell], float] = {}
    for place in whole:
        share = 1 / len(below) if place in below else -1 / (len(whole) - len(below))
        weights[place] = share
        weights["dense", place[1]] = weights.get(("dense", place[1]), 0.0) - share
    found = of_cells(losses, weights, seeds)
    return replace(found, note=f"{len(below)} of {len(whole)} below; {found.note}")


def at_ratio(run: Run, ratio: int) -> Run:
    """The run on so many tokens per parameter."""
    return replace(run, tokens=ratio * run.non_embedding_parameters)


def _is_whole(model: ModelConfig) -> bool:
    return all(side % TILE == 0 for shape in model.projections.values() for side in (*shape, model.context))
