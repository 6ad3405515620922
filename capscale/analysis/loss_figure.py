"""The picture of losses against size: a line per format with its intervals, and what each is worth in dense size."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capscale.analysis.cells import MeanLoss, error_source, mean_losses
from capscale.analysis.hover import hover
from capscale.analysis.labels import INK, LINE_IN, as_label, names_beside, text_inches
from capscale.analysis.plots import COLORS, MARGIN, MARKERS, log_ticks, new_axes, with_margin
from capscale.analysis.study import Study
from capscale.analysis.table import Row

AXES_IN = (5.2, 4.6)
"""Width of the axes with their numbers, and least height, in inches; names take the room that they need beside them."""
APART = 0.008
"""Of ln N, between formats of one size, so that no interval hides another."""
UNITS = ("", "k", "M", "B", "T")
ROUND_IN = 1.1
"""Height above and below the axes."""


def loss_against_size(study: Study) -> Figure:
    """Loss against N with 95 % intervals of `mean_losses`, a line per format, its name beside its end.

    A dashed line goes left from a format's largest run to where the dense curve has the same loss.
    """
    shown, budget = one_budget(study.core.rows)
    cells: dict[str, list[MeanLoss]] = defaultdict(list)
    for cell in mean_losses(study.core, shown):
        cells[cell.curve].append(cell)
    curves = [c for c in study.core.curves if c in cells]
    height = max(AXES_IN[1], LINE_IN * len(curves) + ROUND_IN)
    figure, axes = new_axes(AXES_IN[0] + max(text_inches(as_label(c)) for c in curves), height)
    worth = _worth(study, shown)
    beside = {c: math.exp(APART * (i - (len(curves) - 1) / 2)) for i, c in enumerate(curves)}
    for i, curve in enumerate(curves):
        look = (INK, "o") if curve == "dense" else (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)])
        # An error that all runs share is drawn once: at every mark it would look like one of each run.
        _line(axes, cells[curve], look, beside[curve], bars=error_source(study.core) == "seeds" or i == 0)
        last = cells[curve][-1]
        if curve in worth:
            axes.plot(
                [worth[curve], last.N * beside[curve]],
                [last.loss] * 2,
                color=look[0],
                linewidth=0.7,
                linestyle=(0, (4, 3)),
            )
            axes.plot([worth[curve]], [last.loss], marker="|", color=look[0], markersize=9, zorder=3)
    keys = {c.curve: f"f{i}" for i, c in enumerate(study.capacities)}
    for curve in curves:
        for cell in cells[curve]:
            hover(axes, cell.N * beside[curve], cell.loss, _words(cell), keys.get(curve, ""))
    sizes = [*(c.N for of in cells.values() for c in of), *worth.values()]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) * 0.85, max(sizes) * 1.15)
    log_ticks(axes.xaxis, axes.get_xlim(), size_name)
    every = [c for of in cells.values() for c in of]
    halves = [c.half if math.isfinite(c.half) else 0.0 for c in every]
    ends = [c.loss + sign * half for c, half in zip(every, halves, strict=True) for sign in (-1, 1)]
    axes.set_ylim(*(with_margin(ends) if np.ptp(ends) > 0 else (ends[0] - MARGIN, ends[0] + MARGIN)))
    axes.set_xlabel("non-embedding parameters N")
    axes.set_ylabel("validation loss, nats per token")
    axes.set_title(budget, fontsize=9, loc="left")
    names_beside(axes, [(cells[c][-1].N * beside[c], cells[c][-1].loss, c) for c in curves])
    return figure


def size_name(N: float) -> str:
    """A number of parameters as models are named by it.

    Example: `size_name(3e7)` is `"30M"`.
    """
    power = min(max(int(math.log10(max(N, 1.0)) // 3), 0), len(UNITS) - 1)
    return f"{N / 1000**power:g}{UNITS[power]}"


def _line(axes: Axes, cells: Sequence[MeanLoss], look: tuple[str, str], beside: float, *, bars: bool) -> None:
    """Means with their intervals, as far as the table says them, at `beside` times their sizes."""
    color, marker = look
    halves = [c.half if math.isfinite(c.half) else 0.0 for c in cells]
    axes.errorbar(
        [c.N * beside for c in cells],
        [c.loss for c in cells],
        yerr=halves if bars and any(halves) else None,
        fmt=marker,
        linestyle="-",
        color=color,
        markersize=5,
        capsize=2.2,
        linewidth=1.8 if color == INK else 1.0,
        elinewidth=1.0,
        zorder=4 if color == INK else 3,
        label=as_label(cells[0].curve),
    )


def _words(cell: MeanLoss) -> str:
    within = f" ± {cell.half:.2g}" if math.isfinite(cell.half) else ""
    runs = f", mean of {cell.runs} runs" if cell.runs > 1 else ""
    return f"{cell.curve}\nN = {cell.N:,.0f}\nloss {cell.loss:.4f}{within}{runs}"


def _worth(study: Study, shown: Sequence[Row]) -> dict[str, float]:
    """Dense-equivalent size of the largest runs of every format: the geometric mean over seeds."""
    sizes: dict[str, float] = {}
    runs, largest = {r.run: r for r in shown}, {}
    for r in shown:
        largest[r.curve] = max(r.N, largest.get(r.curve, 0.0))
    for curve, N in largest.items():
        mine = [e.size for e in study.equivalents if e.run in runs and runs[e.run].curve == curve and e.N == N]
        if mine:
            sizes[curve] = float(np.exp(np.mean(np.log(mine))))
    return sizes


def one_budget(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """Rows that one picture may compare, of one D or, where those are more, of one D/N, and words for it."""

    def alike(values: np.ndarray, tolerance: float) -> np.ndarray:
        logs = np.log(values)
        near = np.abs(logs[:, None] - logs[None, :]) < tolerance
        return near[int(np.argmax(near.sum(1)))]

    N, D = np.array([r.N for r in rows]), np.array([r.D for r in rows])
    same_tokens, same_ratio = alike(D, 0.01), alike(D / N, 0.05)
    if same_tokens.sum() >= same_ratio.sum():
        chosen, words = same_tokens, f"D = {np.median(D[same_tokens]):.3g} tokens"
    else:
        chosen, words = same_ratio, f"D/N = {np.median((D / N)[same_ratio]):.0f}"
    return [r for r, keep in zip(rows, chosen, strict=True) if keep], words
