"""Which p of `b-rms`, and which a of `a-b-rms`: the paper (arXiv 2506.01863, section 5.2, RBBM) states neither.

Every setting at four sparsities and two seeds, at a size between those of the ladder, which no report uses; `fw`, the
paper's baseline, beside them. What is chosen is the setting of the least mean loss over all cells, and it stands in
`capscale.defaults`; rows and the mean of every setting: experiments/results/README.md.

Expected: RBBM below `fw` in loss at every sparsity (the paper's Figure 5d), most at 75 and 90 %.
Run: `capscale sweep rbbm_scan --ladder nano --out runs/rbbm_scan` (2 CPU cores: about 15 minutes).
"""

from dataclasses import replace

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.run import Optimizer, Run

from .capacity_demo import budget

FORMATS = ("top50", "top75", "top90", "2:4")
SETTINGS = (
    "fw",
    *(f"b-rms {p}" for p in (0.05, 0.1, 0.2, 0.3)),
    *(f"a-b-rms {a}" for a in (0.25, 0.5)),
)
SEEDS = (0, 1)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every setting of every format at one size: the ladder's fourth, a quarter wider, 20 on the nano ladder."""
    nearest = sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)[3]
    base = ladder.model(nearest, data.vocabulary)
    model = replace(base, width=base.width * 5 // 4)
    return [
        Run(
            size=f"{ladder.name}-{model.width}",
            model=model,
            tokens=budget(ladder),
            data=data,
            optimizer=Optimizer(ladder.learning_rates[nearest] * base.width / model.width, b2=0.98, decay="linear"),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=Representation(operand(f"{name} [{setting}]")),
            seed=seed,
        )
        for name in FORMATS
        for setting in SETTINGS
        for seed in SEEDS
    ]
