"""Capacity of compressed formats on a laptop: Figure 1 of arXiv 2506.01863 at the nano scale.

Weight-only formats, from 8-bit integers to 75 % sparsity, each at four sizes, one token budget and two seeds, trained
as their authors do, against dense models at six sizes. Expected at the end: inside each kind of format (integers,
sparsity) the capacity, the share of a dense model's parameters that it is worth, falls with the format's Gaussian mean
squared error, along a curve of that kind, as the paper claims; whether one curve serves all kinds is for the runs to
say. `top50` trained with the mask of the forward pass, the paper's baseline, shows that the gradient estimator matters
as well.

Run: `capscale sweep capacity_demo --ladder nano --out runs/demo` (2 CPU cores: 5 to 9 minutes).
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.train.run import Optimizer, Run

NANO_TOKENS = 3000 * 8 * 64
"""1.5 million tokens for every nano size, three quarters of a pass over the standard library's prose."""
TOKENS_PER_PARAMETER = 100
"""On the other ladders: of the largest size, for every size, so that only N differs."""

SEEDS = (0, 1)
QUANTIZED = ("int8 [trust]", "int4 [trust]", "int2 [trust]", "int1 [clip 1.3]")
"""QuEST's recipe (arXiv 2502.05003)."""
SPARSE = ("top50 [b-rms 0.1]", "top75 [b-rms 0.1]", "2:4 [b-rms 0.1]", "top50 [fw]")
"""The paper's method for sparsity, RBBM, and its baseline."""

FORMATS: tuple[Representation, ...] = (
    DENSE,
    *(Representation(weights=operand(name), hadamard=128) for name in QUANTIZED),
    *(Representation(weights=operand(name)) for name in SPARSE),
)


def budget(ladder: Ladder) -> int:
    """Training tokens of every run on this ladder that is not on less text."""
    sizes = sorted(size.non_embedding_parameters for size in ladder.sizes.values())
    return NANO_TOKENS if ladder.name in ("nano", "nano-olmo2") else TOKENS_PER_PARAMETER * sizes[:6][-1]


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format at four sizes; dense also at two smaller ones, and, once, on less text at the four.

    The smaller dense models are there to measure weak formats against: a 1-bit model is worth a dense one of an
    eighth of its size.
    """
    sizes = sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)[:6]
    anchors, compressed = sizes[:2], sizes[2:]
    tokens = budget(ladder)
    # Seeds of one program next to each other: it is compiled once.
    grid = [(size, r, tokens, seed) for size in reversed(compressed) for r in FORMATS for seed in SEEDS]
    grid += [(size, DENSE, tokens, seed) for size in anchors for seed in SEEDS]
    grid += [(size, DENSE, tokens // share, SEEDS[0]) for size in reversed(compressed) for share in (2, 4)]
    return [
        Run(
            size=size,
            model=ladder.model(size, data.vocabulary),
            tokens=asked,
            data=data,
            optimizer=Optimizer(ladder.learning_rates[size], b2=0.98, decay="linear"),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=representation,
            seed=seed,
        )
        for size, representation, asked, seed in grid
    ]
