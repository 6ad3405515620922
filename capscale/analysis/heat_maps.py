"""Heat maps of capacities over two factors with their numbers: measured, product, and how far they lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from capscale.analysis.factorization import Axis, Factorization, entry_intervals
from capscale.analysis.labels import INK, LONGEST, as_label

LEAST_REACH = 0.05
"""Of the colours of errors, in rho."""
ROW_IN = 0.27
"""Height of a row of numbers, in inches."""


@dataclass(frozen=True)
class Panels:
    """One line of three heat maps over the same two axes; NaN is left empty."""

    title: str
    axes: tuple[Axis, Axis]
    measured: np.ndarray
    product: np.ndarray
    error: np.ndarray
    """Measured minus product."""
    told: np.ndarray | None = None
    """Where the error is told from 0, by its 95 % interval; None where there are no intervals."""

    @property
    def height(self) -> float:
        """Inches that the maps take with their titles and names."""
        return ROW_IN * len(self.axes[0].levels) + 0.85


def panels_of(found: Factorization) -> list[Panels]:
    """The first two axes in the plane; a line of maps for every choice of levels of the others."""
    grid, lines = found.grid, []
    errors, ends = np.where(grid.compressed >= 2, found.errors, np.nan), entry_intervals(found.error_draws)
    told = None if ends is None else (ends[0] > 0) | (ends[1] < 0)
    for at in np.ndindex(grid.capacity.shape[2:]):
        others = [f"{a.name} {a.levels[i]}" for a, i in zip(grid.axes[2:], at, strict=True)]
        measured, predicted, error = (v[(..., *at)] for v in (grid.capacity, found.predicted, errors))
        clear = None if told is None else told[(..., *at)]
        axes = (grid.axes[0], grid.axes[1])
        lines.append(Panels(", ".join(others) or grid.name, axes, measured, predicted, error, clear))
    return lines


def factorization_maps(found: Factorization) -> Figure:
    """A figure of all maps of a factorization."""
    lines = panels_of(found)
    width = 3 * (0.5 * len(found.grid.axes[1].levels) + 0.5) + 0.9
    figure = Figure(figsize=(max(width, 6.4), 0.5 + sum(line.height for line in lines)), layout="constrained")
    words = wrap(f"{found.grid.name}: {found.method}", LONGEST)
    figure.suptitle("\n".join(map(as_label, words)), fontsize=10, x=0.01, ha="left")
    draw_panels(figure, lines)
    return figure


def draw_panels(figure: Figure | SubFigure, lines: Sequence[Panels]) -> None:
    """Every line of maps below the one before, titles at their left; errors share one range of colours."""
    every = np.concatenate([np.abs(line.error).ravel() for line in lines])
    reach = max(LEAST_REACH, float(np.nanmax(every)) if np.isfinite(every).any() else 0.0)
    parts = figure.subfigures(len(lines), 1, height_ratios=[line.height for line in lines], squeeze=False)[:, 0]
    for line, part in zip(lines, parts, strict=True):
        bold = "" if line.told is None else " (bold: told from 0 by 95 %)"
        part.suptitle(as_label(line.title) + bold, fontsize=9, x=0.01, ha="left")
        maps = (
            ("measured ρ", line.measured, ("Blues", 1.0, ".2f")),
            ("product of factors alone", line.product, ("Blues", 1.0, ".2f")),
            ("measured − product", line.error, ("PuOr", reach, "+z.2f")),
        )
        for k, (title, values, look) in enumerate(maps):
            axes = part.add_subplot(1, 3, k + 1)
            _map(axes, values, look, line.told if k == 2 else None)
            _names(axes, line.axes, first=k == 0)
            axes.set_title(title, fontsize=8)


def _map(axes: Axes, values: np.ndarray, look: tuple[str, float, str], bold: np.ndarray | None) -> None:
    """One map; `look` is its colours, the largest of them, and the format of its numbers."""
    colors, limit, style = look
    low = 0.0 if colors == "Blues" else -limit
    axes.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=low, vmax=limit, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "w" if abs(value) > 0.6 * limit else INK
            weight = "bold" if bold is not None and bold[i, j] else "normal"
            place = {"ha": "center", "va": "center", "fontsize": 7}
            axes.text(j, i, format(value, style), color=color, weight=weight, **place)


def _names(axes: Axes, named: tuple[Axis, Axis], *, first: bool) -> None:
    rows, columns = named
    long = max(map(len, columns.levels)) > 6
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(columns.levels)), list(map(as_label, columns.levels)), fontsize=7, **turn)
    labels = list(map(as_label, rows.levels)) if first else [""] * len(rows.levels)
    axes.set_yticks(range(len(rows.levels)), labels, fontsize=7)
    axes.set_xlabel(as_label(columns.name), fontsize=8)
    if first:
        axes.set_ylabel(as_label(rows.name), fontsize=8)
    axes.tick_params(length=0)
