"""Estimators against each other at a fixed format: what a default changes, measured.

For every row of the table below, the recipe of its authors and the ones that this project had before, or that a reader
may expect, at two sizes and two seeds, with dense models to read capacities off. `capscale report` lists the ones that
are not the default beside those that are; the table of experiments/results/README.md comes from it.

Expected, from QuEST's runs (arXiv 2502.05003) and Figure 5d of arXiv 2506.01863: more capacity of `int1 [clip 1.3]`
than of `int1 [clip]`, of `b-rms` than of `fw`, and of the trust mask over all entries than of the two masks in turn for
sparse, then quantized weights.
Run: `capscale sweep recipes --ladder nano --out runs/recipes` (2 CPU cores: about 12 minutes).
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.train.run import Optimizer, Run

from .capacity_demo import budget

SEEDS = (0, 1)
SPARSE_RECIPES = ("b-rms 0.1", "fw", "straight-through")

ROTATED = (
    *("int1 [clip 1.3]", "int1 [clip]", "int1 [straight-through]"),
    *("e2m1 [trust]", "e2m1 [trust-radius 0.3186]"),
)
PLAIN = (
    *(f"{name} [{recipe}]" for name in ("top50", "top75", "2:4") for recipe in SPARSE_RECIPES),
    *(
        f"{name}{scales} [{recipe}]"
        for name in ("2:4+int4", "4:8-pairs+int4")
        for scales, recipe in (("-dense-scales", "trust"), ("", "trust"), ("", "straight-through+trust"))
    ),
    *("noise2", "noise2-matrix [straight-through]", "noise4", "noise4-matrix [straight-through]"),
    *("lsq2", "lsq2-per-channel", "lsq4", "lsq4-per-channel"),
)
RECIPES = (
    *(Representation(operand(name), hadamard=128) for name in ROTATED),
    *(Representation(operand(name)) for name in PLAIN),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every recipe at two sizes (16 and 24 on the nano ladder), dense at the ladder's six smallest."""
    sizes = sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)[:6]
    grid = [(size, DENSE) for size in reversed(sizes)]
    grid += [(size, recipe) for recipe in dict.fromkeys(RECIPES) for size in sizes[3:5]]
    return [
        Run(
            size=size,
            model=ladder.model(size, data.vocabulary),
            tokens=budget(ladder),
            data=data,
            optimizer=Optimizer(ladder.learning_rates[size], b2=0.98, decay="linear"),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=representation,
            seed=seed,
        )
        for size, representation in grid
        for seed in SEEDS
    ]
