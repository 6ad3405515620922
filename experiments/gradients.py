"""Compressed gradients beside compressed operands of the forward product: forward alone, backward alone, and both.

Five recipes of `capscale.recipes` (nvfp4-pretraining, quartet, quartet2, mxfp4-backward, int8-training) and dense, each
with its forward products alone, its backward products alone and all three, at several numbers of tokens per parameter
and two seeds: whether gradients act on the data's term of a law, as a factor of D, shows where the ratio varies.
mxfp4-backward has a dense forward pass, so that it is one of these.

Expected: backward alone costs less than forward alone at 4 bits, and its cost grows with tokens per parameter.
Run: `capscale sweep gradients --ladder nano --out runs/gradients`, 224 runs; `--sizes nano-16 --seeds 0` are 56.
Not run as a whole yet.
"""

from dataclasses import replace
from itertools import product

from capscale.data.corpus import DataId
from capscale.models.config import ModelConfig
from capscale.models.ladder import Ladder
from capscale.recipes import backward_only, find_recipe, forward_only
from capscale.representation import DENSE, Representation
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

RECIPES = ("nvfp4-pretraining", "quartet", "quartet2", "mxfp4-backward", "int8-training")
RATIOS = (25, 50, 100, 200)
"""Tokens per parameter, those of the paper's ladders."""
TILE, SIZES = 16, 3
"""Side of NVFP4's tiles, which has to divide every matrix, and the number of sizes: the smallest that it does."""


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


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every representation at every size, ratio and seed."""
    grid = Grid(ladder, data)
    return [
        _long(grid.run(size, held, seed=seed), ratio)
        for size, ratio, held, seed in product(sizes(ladder), RATIOS[::-1], representations(), SEEDS)
    ]


def _is_whole(model: ModelConfig) -> bool:
    return all(side % TILE == 0 for shape in model.projections.values() for side in (*shape, model.context))


def _long(run: Run, ratio: int) -> Run:
    return replace(run, tokens=ratio * run.non_embedding_parameters)
