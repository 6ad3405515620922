"""Dense models of several sizes and lengths, to be rounded after training: what does rounding cost, and whom?

Four sizes, five lengths of training (all of the ladder's tokens down to a sixteenth) and two seeds. Nothing is trained
in a format; `capscale quantize` rounds the checkpoints that the sweep leaves, and `capscale post-training` judges:

Claims: the rise of the loss is in proportion to the Gaussian error of the format, across kinds; it grows with the
tokens that a model was trained on and falls with its size, as Kumar et al. (arXiv 2411.04330) and QiD (arXiv
2411.17691) have it. Rows and verdicts: experiments/results/README.md.

Run: `capscale sweep post_training --ladder nano --out runs/post`, 40 runs, 2 CPU minutes; then
`capscale quantize runs/post/runs/* --csv rounded.csv` and `capscale post-training rounded.csv`.
"""

from itertools import product

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.train.grid import SEEDS, Grid
from capscale.train.run import Run

SHARES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
"""Of the ladder's tokens, all with a schedule of their own."""


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every size at every length; seeds of one program together."""
    grid = Grid(ladder, data)
    return [grid.run(size, share=share, seed=seed) for size, share, seed in product(grid.four, SHARES, SEEDS)]
