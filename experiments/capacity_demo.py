"""Capacity of compressed formats on a laptop: Figure 1 of arXiv 2506.01863 at the nano scale.

Weight-only formats, from 8-bit integers to 75 % sparsity, each at four sizes and one token budget, against dense
models at six sizes. Expected at the end: each format's capacity (the share of a dense model's parameters it is
worth) falls with its Gaussian mean squared error along one curve, whatever the kind of format; `top50` trained with
the hard mask lies off the curve, because the gradient estimator matters as well.

Run: `capscale sweep capacity_demo --ladder nano --out runs/demo` (2 CPU cores: 5 to 8 minutes).
"""

from capscale.data.corpus import DataId
from capscale.estimators import ForwardMask
from capscale.formats import catalog
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Operand, Representation, operand
from capscale.train.run import Optimizer, Run

NANO_TOKENS = 3000 * 8 * 64
"""1.5 million tokens for every nano size, three quarters of a pass over the standard library's prose."""
TOKENS_PER_PARAMETER = 100
"""On the other ladders: of the largest size, for every size, so that only N differs."""

FORMATS: tuple[Representation, ...] = (
    DENSE,
    *(Representation(weights=operand(f"int{bits}"), hadamard=128) for bits in (8, 4, 2, 1)),
    *(Representation(weights=operand(name)) for name in ("top50", "top75", "2:4")),
    Representation(weights=Operand(catalog.find("top50"), ForwardMask())),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format at four sizes; dense also at two smaller ones, and on less text at the four.

    The smaller dense models are there to measure weak formats against: a 1-bit model is worth a dense one of an
    eighth of its size.
    """
    sizes = sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)[:6]
    anchors, compressed = sizes[:2], sizes[2:]
    largest = ladder.sizes[sizes[-1]].non_embedding_parameters
    tokens = NANO_TOKENS if ladder.name == "nano" else TOKENS_PER_PARAMETER * largest
    grid = [(size, representation, tokens) for size in reversed(compressed) for representation in FORMATS]
    grid += [(size, DENSE, tokens) for size in anchors]
    grid += [(size, DENSE, tokens // share) for size in reversed(compressed) for share in (2, 4)]
    return [
        Run(
            size=size,
            model=ladder.model(size, data.vocabulary),
            tokens=budget,
            data=data,
            optimizer=Optimizer(ladder.learning_rates[size], b2=0.98, decay="linear"),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=representation,
        )
        for size, representation, budget in grid
    ]
