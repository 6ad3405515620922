"""The picture of the law bench."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capscale.analysis.bench_numbers import in_order
from capscale.analysis.hover import hover
from capscale.analysis.labels import INK, as_label
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.plots import COLORS, MARKERS, plain_axes
from capscale.analysis.validation import Validation, pooled

CAPTION = (
    "Errors of every law on the runs it was fitted to, and on larger models, longer trainings and formats that were "
    "held out, the best rank on top."
)
COLUMNS = (
    ("fit", lambda v: v.rmse),
    ("larger N", lambda v: pooled(v.along("N"))),
    ("longer D", lambda v: pooled(v.along("D"))),
    ("new format", lambda v: pooled(v.formats)),
)
TICKS = (1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
MOST_TICKS = 8
"""More would run into one another: powers of ten are left."""
MARGIN = 1.25
"""Factor between the outermost marks and the ends of the axis."""


def bench_plot(benches: Sequence[TableBench]) -> Figure:
    """RMSE of every law on runs that it has and has not seen, a panel for each table."""
    lines = [in_order(b) for b in benches]
    heights = [0.34 * max(len(each), 2) + 0.9 for each in lines]
    figure = Figure(figsize=(8.0, sum(heights)), layout="constrained")
    panels = figure.subplots(len(benches), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, bench, each in zip(panels, benches, lines, strict=True):
        _panel(axes, each)
        if len(benches) > 1:
            axes.set_title(as_label(bench.table.source), fontsize=10, loc="left")
    panels[0].legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("RMSE of the loss, nats: left is better")
    return figure


def _panel(axes: Axes, lines: Sequence[Validation]) -> None:
    plain_axes(axes)
    seen: list[float] = []
    for c, (column, of) in enumerate(COLUMNS):
        x = np.array([of(v) for v in lines])
        y = np.arange(len(lines)) + 0.16 * (c - 1.5)
        axes.plot(x, y, MARKERS[c], color=(INK, *COLORS)[c], markersize=5.0, label=column, linestyle="none")
        seen += [v for v in x if v > 0]
        for law, error, height in zip(lines, x, y, strict=True):
            if error > 0:
                hover(axes, error, height, f"{law.name}\nRMSE {error:.4g} nats, {column}", f"law {law.name}")
    axes.set_yticks(range(len(lines)), [as_label(v.name) for v in lines], fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xscale("log")
    low, high = (min(seen) / MARGIN, max(seen) * MARGIN) if seen else (TICKS[0], TICKS[-1])
    axes.set_xlim(low, high)
    ticks = [t for t in TICKS if low <= t <= high]
    if len(ticks) > MOST_TICKS:
        ticks = [t for t in ticks if f"{t:e}".startswith("1.0")]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
