"""Capacity of compressed formats on a laptop: Figure 1 of arXiv 2506.01863 at the nano scale.

Weight-only formats, from 8-bit integers to 75 % sparsity, each at four sizes and one token budget, against dense
models at five sizes. Expected at the end: each format's capacity (the share of a dense model's parameters it is
worth) falls with its Gaussian mean squared error along one curve, whatever the kind of format; `top50` trained with
the hard mask lies off the curve, because the gradient estimator matters as well.

Run: `capscale sweep capacity_demo --ladder nano --out runs/demo` (2 CPU cores: about 5 minutes).
"""

from capscale.data.corpus import DataId
from capscale.estimators import ForwardMask
from capscale.formats import catalog
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Operand, Representation, operand
from capscale.train.run import Optimizer, Run

TOKENS_PER_PARAMETER = 100
"""Of the largest model that is trained in every format; all sizes see as many tokens, so that only N differs."""

FORMATS: tuple[Representation, ...] = (
    DENSE,
    *(Representation(weights=operand(f"int{bits}"), hadamard=128) for bits in (8, 4, 2, 1)),
    *(Representation(weights=operand(name)) for name in ("top50", "top75", "2:4")),
    Representation(weights=Operand(catalog.find("top50"), ForwardMask())),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Dense at all sizes, and on less text at four; every other format at the same four sizes."""
    sizes = _sizes(ladder)
    tokens = _tokens(ladder, sizes[-1])
    anchor, compressed = sizes[0], sizes[1:]
    grid = [(size, fmt, tokens) for size in reversed(compressed) for fmt in FORMATS]
    grid += [(anchor, DENSE, tokens)]
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


def _sizes(ladder: Ladder) -> list[str]:
    """The five smallest sizes."""
    return sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)[:5]


def _tokens(ladder: Ladder, largest: str) -> int:
    if ladder.name == "nano":
        return 2_048_000  # 80 to 1,200 tokens per parameter: one pass over the standard library's prose
    return TOKENS_PER_PARAMETER * ladder.sizes[largest].non_embedding_parameters
