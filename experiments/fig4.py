"""Figures 4a and 4b of arXiv 2506.01863: scales for small groups, and outliers kept in high precision.

Claim: smaller groups lower GMSE and raise capacity, at the price of bits for scales (4a); keeping outliers has the
worse trade of capacity against bits, so that no outliers is on the front (4b).
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train.grid import Grid
from capscale.train.run import Run

BITS = (2, 3, 4)
OUTLIER_PERCENT = (1, 2, 5)


def groups(ladder: Ladder) -> tuple[int, ...]:
    """Sizes of groups: the paper's 4 to 128, and on the nano ladder those that its short rows are a multiple of."""
    return (4, 8) if ladder.name.startswith("nano") else (4, 16) if ladder.name.startswith("micro") else (4, 32, 128)


def names(ladder: Ladder) -> list[str]:
    """Formats: whole rows, groups, outliers."""
    kept = [f"int{bits}-outliers{percent}" for bits in BITS for percent in OUTLIER_PERCENT]
    return [f"int{bits}" for bits in BITS] + [f"int{bits}-g{size}" for bits in BITS for size in groups(ladder)] + kept


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Every format, rotated, and the dense curve."""
    grid = Grid(ladder, data)
    return [*grid.over(Representation(operand(name), hadamard=128) for name in names(ladder)), *grid.dense()]
