"""The grid behind the unified law: Figures 1, 2 and 5 of arXiv 2506.01863, weights of every kind, one W+A format.

Every format at the ladder's sizes but the two largest, each at 25, 50, 100 and 200 tokens per parameter, is what the
law is fitted to; the two largest, at 100 and in fewer formats, are what it has to predict (QuEST, arXiv 2502.05003,
went to 800M). Expected: one alpha, beta and E for all formats (0.13, 0.33 and 1.3 on C4), and capacities that follow
tanh(F log_1/4 GMSE)^C with F = 0.41 and C = 1.39.

Preflight: `capscale preflight paper_capacity --ladder paper --topology v5e:4x4 --vocabulary 32000`
Run: `capscale sweep paper_capacity --ladder paper --out DIR --text SHARDS` on accelerators.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.train.run import Optimizer, Run

TOKENS_PER_PARAMETER = (25, 50, 100, 200)
HELD_OUT_TOKENS_PER_PARAMETER = 100

INTS: dict[str, Representation] = {
    f"int{bits}": Representation(weights=operand(f"int{bits}"), hadamard=128) for bits in range(1, 9)
}
"""QuEST on weights alone: Figure 1a."""

SIX: dict[str, Representation] = {
    "dense": DENSE,
    "int4": INTS["int4"],
    "int4 W+A": Representation(operand("int4"), operand("int4", per_token=True), hadamard=128),
    "top50": Representation(operand("top50 [b-rms 0.1]")),
    "2:4+int4": Representation(operand("2:4+int4-dense-scales [trust]")),
    "higgs-d2-n16": Representation(operand("higgs-d2-n16"), hadamard=128),
}
"""One of every kind; the ones that the largest sizes are trained in."""

BASELINE = Representation(operand("top50 [fw]"))
"""Magnitude pruning, which the paper's RBBM is compared with."""

FORMATS: tuple[Representation, ...] = tuple(dict.fromkeys([*SIX.values(), BASELINE, *INTS.values()]))


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Largest runs first, so that a sweep over many accelerators does not end on its longest run."""
    sizes = sorted(ladder.sizes, key=lambda size: ladder.sizes[size].non_embedding_parameters)
    grid = [(size, ratio, fmt) for size in sizes[:-2] for ratio in TOKENS_PER_PARAMETER for fmt in FORMATS]
    grid += [(size, HELD_OUT_TOKENS_PER_PARAMETER, fmt) for size in sizes[-2:] for fmt in SIX.values()]
    planned = [
        Run(
            size=size,
            model=ladder.model(size, data.vocabulary),
            tokens=ratio * ladder.sizes[size].non_embedding_parameters,
            data=data,
            optimizer=Optimizer(ladder.learning_rates[size]),
            batch=ladder.batch,
            ladder=ladder.name,
            representation=representation,
        )
        for size, ratio, representation in grid
    ]
    return sorted(planned, key=lambda run: -run.flops)
