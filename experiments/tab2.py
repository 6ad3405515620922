"""Table 2 of arXiv 2506.01863, sizes and learning rates, and the dense runs that every capacity is read off.

Expected: layers, heads, widths and rates of the `paper` ladder are those of the table. The runs are dense models of six
sizes, two seeds, and of four sizes on a half and a quarter of the text, which the law's data term needs.
"""

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.train.grid import Grid
from capscale.train.run import Run


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Dense: the curve, and less text."""
    grid = Grid(ladder, data)
    return [*grid.dense(), *grid.shorter()]
