"""How NVFP4 pretraining rounds and rotates: its recipe against recipes that differ from it in one choice.

The recipe rounds gradients by chance and all else to the nearest, and rotates both operands of the weights' gradient in
blocks of 16 under fixed signs. Against it: gradients to the nearest as well; all operands by chance, those of the
forward pass too; the rotation without signs; no rotation. At the smallest size of `gradients`, with dense models: four
seeds at its shorter two numbers of tokens per parameter, which decided nothing, as seeds scatter by a tenth of a nat
there and one choice moves the loss by a hundredth; and twelve seeds at 100 tokens per parameter.

Statements, judged by differences of losses at the most tokens (`capscale.analysis.contrasts`): stochastic rounding
helps on gradients, and on gradients only (arXiv 2509.25149, 2505.19115); random signs help the weights' gradient, and
so does its rotation. All operands by chance are evaluated so as well, as they would be served.

Run: `capscale sweep gradient_rounding --ladder nano --out runs/rounding`, 120 runs; then
`python scripts/judge_experiment.py gradient_rounding gradient_rounding.csv` of its rows. Rows and verdicts:
experiments/results/README.md.
"""

from dataclasses import replace
from itertools import product

from capscale.experiments.gradients import SHORT, SMALL, at_ratio, sizes

from capscale.analysis.claims import Claim, Estimate, above_zero
from capscale.analysis.contrasts import between, estimates_by_name
from capscale.analysis.evidence import Evidence
from capscale.data.corpus import DataId
from capscale.formats.catalog import find
from capscale.models.ladder import Ladder
from capscale.operands import operand
from capscale.recipes import find_recipe
from capscale.representation import DENSE, Representation
from capscale.train.grid import Grid
from capscale.train.run import Run

SEEDS = {100: tuple(range(12)), **dict.fromkeys(SHORT[::-1], tuple(range(4)))}
"""By tokens per parameter. At the most of them the statements are judged: a longer training scatters less."""
RECIPE = find_recipe("nvfp4-pretraining")


def variants() -> dict[str, Representation]:
    """The recipe with one choice made otherwise, by the statement that it is held against."""
    inputs, weights = RECIPE.gradients.inputs, RECIPE.gradients.weights
    nearest, chance = find("nvfp4"), find("nvfp4-stochastic")

    def other(**changes: object) -> Representation:
        return replace(RECIPE, gradients=replace(RECIPE.gradients, weights=replace(weights, **changes)))

    return {
        "chance-on-gradients": replace(
            RECIPE,
            gradients=replace(
                RECIPE.gradients,
                inputs=replace(inputs, gradient=nearest),
                weights=replace(weights, gradient=nearest),
            ),
        ),
        "on-gradients-only": replace(
            other(operand=chance),
            weights=operand("nvfp4-g16x16-stochastic [straight-through]"),
            activations=operand("nvfp4-stochastic [straight-through]", per_token=True),
        ),
        "signs": other(signs=None),
        "rotation": other(hadamard=None, signs=None),
    }


def _worse(name: str, says: str, source: str, without: str) -> Claim:
    effect = f"loss {without} less that of the recipe, in nats per token"
    return above_zero(name, says, source, effect, paper=SMALL, deviation=0.006)


STATEMENTS = (
    _worse(
        "chance-on-gradients",
        "Rounding gradients by chance is better than to the nearest.",
        "arXiv 2509.25149, section 4; arXiv 2505.19115, abstract",
        "with gradients to the nearest",
    ),
    _worse(
        "on-gradients-only",
        "Rounding weights and activations by chance is worse than to the nearest.",
        "arXiv 2509.25149, section 4; arXiv 2505.19115, abstract: nearest in the forward pass",
        "with all operands by chance",
    ),
    _worse(
        "signs",
        "Random signs ahead of the rotation help the weights' gradient.",
        "arXiv 2509.25149, section 4",
        "with the rotation alone",
    ),
    _worse(
        "rotation",
        "A rotation helps the weights' gradient.",
        "arXiv 2509.25149, section 4",
        "without a rotation",
    ),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Dense, the recipe and its variants at the smallest size, by tokens per parameter, all seeds."""
    grid, size = Grid(ladder, data), sizes(ladder)[-1]
    held = [DENSE, RECIPE, *variants().values()]
    return [
        at_ratio(grid.run(size, each, seed=seed), ratio)
        for ratio, seeds in SEEDS.items()
        for each, seed in product(held, seeds)
    ]


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Losses of the variants less those of the recipe, at the most tokens of these rows."""
    most = max((row.D for row in evidence.table.rows), default=0.0)
    contrasts = {name: between(variant, RECIPE) for name, variant in variants().items()}
    return estimates_by_name(evidence.only(D=most), contrasts)
