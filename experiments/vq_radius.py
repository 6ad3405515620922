"""The radius of Algorithm 2 of arXiv 2506.01863, beyond which a vector's gradient is masked: the paper states none.

Radii as multiples of the outermost codeword's norm, for three codebooks, at a width between those of the ladder, which
no report uses. The paper has no claim about it.
Expected: little difference from 1 on, where hardly a vector lies outside. Found: so it is with 16 words in two
dimensions; with one bit a weight over half of Gaussian vectors lie outside 1, and the loss is .31 and .43 nats above
that of 1.6, the default since. Rows, and the mean of every radius: experiments/results/README.md.

Run: `capscale sweep vq_radius --ladder nano --out runs/vq_radius`, 30 runs.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

CODEBOOKS = ("higgs-d2-n4", "higgs-d2-n16", "higgs-d4-n16")
RADII = (0.6, 0.8, 1.0, 1.25, 1.6)
SEEDS = (0, 1)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every radius of every codebook at one width, a quarter above the smaller of the middle sizes."""
    grid = Grid(ladder, data)
    size = grid.two[-1]
    width = ladder.sizes[size].width * 5 // 4
    every = [
        Representation(operand(f"{name} [hypersphere {radius:g}]"), hadamard=128)
        for name in CODEBOOKS
        for radius in RADII
    ]
    return [grid.run(size, each, width=width, seed=seed) for each in every for seed in SEEDS]
