"""Loss curves of a sweep's runs, a panel for each size."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from capscale.sweep.history import RunHistory

COLORS = {
    "done": "#009e73",
    "running": "#0072b2",
    "started": "#8c6d00",
    "failed": "#d55e00",
    "damaged": "#d55e00",
    "diverged": "#7a3e9d",
    "stopped early": "#5f5f5f",
}
"""Colours of states, which pages have a lighter one of for dark screens."""
POINTS = 200
"""Points that a curve is thinned to."""
PANELS = 9
"""Sizes that have a panel; the page says which others there are."""


def sizes(histories: Sequence[RunHistory]) -> list[str]:
    """Sizes with a curve, in the order of the sweep."""
    return list(dict.fromkeys(each.size for each in histories if len(each.curve) > 1))


def loss_curves(histories: Sequence[RunHistory]) -> Figure | None:
    """Loss against step of every run, in the colour of its state, with its jumps marked; None before there is one."""
    shown = sizes(histories)[:PANELS]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows + 0.3), layout="constrained")
    for axes, size in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        runs = [each for each in histories if each.size == size]
        for run in runs:
            points = [(step, loss) for step, loss in run.curve if loss is not None]
            thinned = points[:: max(1, len(points) // POINTS)] + points[-1:]
            color = COLORS.get(run.status.state, "#888888")
            axes.plot(*zip(*thinned, strict=True), color=color, linewidth=1.0, alpha=0.8) if thinned else None
            high = [(step, loss) for step, loss in points if step in run.spikes]
            axes.plot(*zip(*high, strict=True), "^", color="#d55e00", markersize=6) if high else None
        axes.set_title(size, fontsize=10, parse_math=False)
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel("loss (nats per token)", fontsize=9)
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    states = [state for state in COLORS if any(each.status.state == state and each.curve for each in histories)]
    marks = [Line2D([], [], color=COLORS[state], label=state) for state in states]
    if any(each.spikes for each in histories):
        marks.append(Line2D([], [], color="#d55e00", marker="^", linestyle="", label="jump of the loss"))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False, fontsize=9)
    return figure
