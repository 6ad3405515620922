"""Pictures of products of capacities: heat maps, ours below the printed ones, and both in one plane."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

from capscale.analysis.factorization import CapacityGrid, entry_intervals, product
from capscale.analysis.heat_maps import Panels, draw_panels, panels_of
from capscale.analysis.labels import INK
from capscale.analysis.plots import COLORS, MARKERS, SIZE, plain_axes
from capscale.analysis.printed import Printed
from capscale.errors import UserError

PLANE_IN = 3.5
"""Height of the plane of measured against product, in inches."""
CHARACTERS = 90
"""Of a line of text across a figure."""
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PRINTED_STYLE = {"marker": "s", "color": INK, "markerfacecolor": "none", "linestyle": "none", "markersize": 4.5}


def product_figure(ours: Sequence[CapacityGrid], printed: Printed, title: str, note: str = "") -> Figure:
    """Three heat maps a grid, measured, product and error, the printed ones first; below them all in one plane.

    Args:
      ours: grids of the same axes as the print.
      printed: the panels of the paper.
      title: of the figure.
      note: more words below it.
    """
    lines = [_printed_panels(printed)]
    lines += [panels for grid in ours for panels in panels_of(product(grid))]
    heights = [line.height for line in lines]
    words = [title, *wrap(note, CHARACTERS)]
    head = 0.25 + 0.18 * len(words)
    figure = Figure(figsize=(SIZE[0], head + sum(heights) + PLANE_IN), layout="constrained")
    figure.suptitle("\n".join(words), fontsize=10, x=0.01, ha="left")
    top, bottom = figure.subfigures(2, 1, height_ratios=[sum(heights), PLANE_IN], squeeze=False)[:, 0]
    draw_panels(top, lines)
    draw_plane(bottom.add_subplot(), ours, printed)
    return figure


def plane(ours: Sequence[CapacityGrid], title: str) -> Figure:
    """Measured against product alone, for factors that the paper prints no numbers of."""
    figure = Figure(figsize=SIZE, layout="constrained")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    draw_plane(figure.add_subplot(), ours, None)
    return figure


def had(*makers: Callable[[], CapacityGrid]) -> list[CapacityGrid]:
    """The grids that have a product to show."""
    found = []
    for make in makers:
        with suppress(UserError):
            found.append(make())
    return [grid for grid in found if product(grid).tested.any()]


def _printed_panels(printed: Printed) -> Panels:
    """The paper's panels; its error, printed without a sign, has that of its measured less its product."""
    axes = printed.grid.axes
    sign = np.sign(product(printed.grid).errors)
    error = np.where(printed.grid.compressed >= 2, sign * printed.error, np.nan)
    return Panels(f"{printed.figure} as printed", (axes[0], axes[1]), printed.grid.capacity, printed.product, error)


def draw_plane(axes: Axes, ours: Sequence[CapacityGrid], printed: Printed | None) -> None:
    """Measured against product, logarithmic, with 95 % bars of both; on the diagonal the product is right."""
    plain_axes(axes)
    seen: list[float] = []
    for k, grid in enumerate(ours):
        found = product(grid)
        counts = sorted({int(n) for n in grid.compressed[found.tested]})
        for count in counts:
            chosen = found.tested & (grid.compressed == count)
            x, y = found.predicted[chosen], grid.capacity[chosen]
            bars = [_bars(v, draws, chosen) for v, draws in ((x, found.draws), (y, grid.draws))]
            style = k + counts.index(count)
            words = f"{grid.name}, {count} factors" if len(counts) > 1 else grid.name
            axes.errorbar(
                x,
                y,
                xerr=bars[0],
                yerr=bars[1],
                fmt=MARKERS[style],
                color=COLORS[style],
                markersize=4.5,
                linewidth=0.9,
                label=words,
                zorder=3,
            )
            seen += [*x, *y]
    if printed is not None:
        shown = product(printed.grid)
        x, y = shown.predicted[shown.tested], printed.grid.capacity[shown.tested]
        axes.plot(x, y, label=f"{printed.figure} as printed", zorder=4, **PRINTED_STYLE)
        seen += [*x, *y]
    if not ours:
        axes.text(0.98, 0.03, "no product of ours was measured", transform=axes.transAxes, ha="right", color=INK)
    low = max(0.7 * min(seen, default=0.1), 0.01)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, 1.15)
    axes.set_ylim(low, 1.15)
    axes.plot([low, 1.15], [low, 1.15], color="#888888", linewidth=0.9, zorder=1)
    for each in (axes.xaxis, axes.yaxis):
        each.set_major_locator(FixedLocator([t for t in TICKS if t >= low]))
        each.set_major_formatter(ScalarFormatter())
        each.set_minor_formatter(NullFormatter())
    axes.set_xlabel("product of the factors' capacities, each alone")
    axes.set_ylabel("capacity ρ measured, 95 %")
    if seen:
        axes.legend(loc="upper left", fontsize=8, frameon=False)


def _bars(values: np.ndarray, draws: np.ndarray | None, chosen: np.ndarray) -> list[list[float]]:
    """Lengths of the bars below and above; none where there are no resamples."""
    ends = entry_intervals(draws)
    if ends is None:
        return [[0.0] * len(values)] * 2
    return [np.maximum(values - ends[0][chosen], 0).tolist(), np.maximum(ends[1][chosen] - values, 0).tolist()]
