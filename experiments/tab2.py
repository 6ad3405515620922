"""Table 2 of arXiv 2506.01863, sizes and learning rates, and the dense runs that every capacity is read off.

Claim: layers, heads, widths and learning rates of 30M, 50M, 100M and 200M; the second family has the same.
Expected: every cell of the `paper` ladder is that of the table. Nothing has to be trained for it. The runs are dense
models of six sizes, two seeds, and of four sizes on a half and a quarter of the text, which the law's data term needs.

Run: `capscale reproduce tab2 --ladder nano`, 28 runs, 4 minutes on two cores, all of them those of other figures.
"""

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from capscale.analysis.claims import Claim, Estimate
from capscale.analysis.evidence import Evidence
from capscale.analysis.printed_tables import tables
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import PAPER, PAPER_OLMO2, Ladder
from capscale.train.grid import Grid
from capscale.train.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRINTED = tables().sizes
SHAPE = ("layers", "heads", "width")
RATE = ("learning_rate",)


def _claim(name: str, says: str, columns: tuple[str, ...], source: str = "Table 2") -> Claim:
    cells = float(len(PRINTED) * len(columns))
    return Claim(
        name=name,
        says=says,
        source=source,
        effect=f"cells of {', '.join(columns)} that the ladder has as printed, of {cells:g}",
        accepted=(cells, cells),
        why="a configuration is the one printed or it is not",
        paper=cells,
    )


CLAIMS = (
    _claim("shapes", "Layers, heads and widths of the four sizes are those of the table.", SHAPE),
    _claim("rates", "Learning rates of the four sizes are those of the table.", RATE),
    _claim(
        "second-family",
        "The second family has the sizes and learning rates of the first.",
        (*SHAPE, *RATE),
        "Table 2, training set-up of OLMo2",
    ),
)


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """Dense: the curve, and less text."""
    grid = Grid(ladder, data)
    return [*grid.dense(), *grid.shorter()]


def cells(ladder: Ladder, prefix: str = "") -> dict[tuple[str, str], tuple[float, float]]:
    """Numbers of the ladder and of the print, by size and column; NaN for a size that the ladder is without."""
    found = {}
    for size, row in PRINTED.items():
        model, rate = ladder.sizes.get(prefix + size), ladder.learning_rates.get(prefix + size, np.nan)
        for column, value in row.items():
            ours = rate if column in RATE else np.nan if model is None else float(getattr(model, column))
            found[size, column] = (ours, value)
    return found


def _equal(ladder: Ladder, columns: tuple[str, ...], prefix: str = "") -> Estimate:
    chosen = {key: pair for key, pair in cells(ladder, prefix).items() if key[1] in columns}
    other = [f"{size} {column} {ours:g}, printed {value:g}" for (size, column), (ours, value) in chosen.items()
             if ours != value]  # fmt: skip
    return Estimate.exact(float(len(chosen) - len(other)), "; ".join(other))


def estimates(evidence: Evidence) -> dict[str, Estimate]:
    """Cells that are as printed; of the ladders, whatever was trained."""
    return {
        "shapes": _equal(PAPER, SHAPE),
        "rates": _equal(PAPER, RATE),
        "second-family": _equal(PAPER_OLMO2, (*SHAPE, *RATE), "olmo2-"),
    }


def figure(evidence: Evidence) -> "Figure":
    """Learning rates by width, printed and the ladder's, beside the dense losses of these runs by size and tokens."""
    from capscale.analysis import panels

    drawn, (left, right) = panels.panels(1, 2, height=3.2)
    found = cells(PAPER)
    rates = np.array([found[size, "learning_rate"] for size in PRINTED])
    widths = np.array([found[size, "width"] for size in PRINTED])
    look = panels.style(0)
    left.plot(widths[:, 0], rates[:, 0], look.marker, color=look.color, markersize=5, label="ladder `paper`", zorder=3)
    panels.printed_marks(left, widths[:, 1].tolist(), rates[:, 1].tolist(), "printed, Table 2")
    for size, (width, rate) in zip(PRINTED, np.stack([widths[:, 1], rates[:, 1]], axis=1), strict=True):
        left.annotate(size, (width, rate), xytext=(6, 5), textcoords="offset points", fontsize=8)
    left.set_xlim(580, 1450)
    left.set_ylim(0.0, 1.45e-3)
    left.set_xlabel("width", fontsize=9)
    left.set_ylabel("peak learning rate", fontsize=9)
    panels.key(left, "lower left")
    _losses(right, evidence)
    return drawn


def _losses(axes: "Axes", evidence: Evidence) -> None:
    from capscale.analysis import panels

    axes.set_xlabel("non-embedding parameters N", fontsize=9)
    axes.set_ylabel("dense loss, nats per token", fontsize=9)
    try:
        rows = [row for row in evidence.table.rows if row.is_dense]
    except UserError as reason:
        panels.nothing(axes, str(reason))
        return
    longest = {N: max(row.D for row in rows if row.N == N) for N in {row.N for row in rows}}
    shares = defaultdict(lambda: defaultdict(list))
    for row in rows:
        shares[round(row.D / longest[row.N], 2)][row.N].append(row.loss)
    axes.set_xscale("log")
    for k, (share, losses) in enumerate(sorted(shares.items(), reverse=True)):
        look, sizes = panels.style(k), sorted(losses)
        axes.plot(sizes, [np.mean(losses[N]) for N in sizes], color=look.color, linewidth=1, zorder=2)
        every = [(N, loss) for N in sizes for loss in losses[N]]
        axes.plot(
            *np.transpose(every),
            look.marker,
            color=look.color,
            markersize=4,
            label="D" if share == 1 else f"D / {1 / share:.0f}",
            zorder=3,
        )
    panels.key(axes, "upper right")
