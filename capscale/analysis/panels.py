"""Panels of the pictures that claims come with: capacities with 95 % bars against error or bits, and the printed ones.

Series are told apart by marker as well as by colour; numbers of the print are hollow and grey, wherever they stand.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from capscale.analysis.effects import Measured, measured
from capscale.analysis.evidence import Evidence
from capscale.analysis.labels import INK, as_label
from capscale.analysis.measure import CapacityLaw
from capscale.analysis.misfits import of_errors, on_bound, through
from capscale.analysis.operands import gaussian_error
from capscale.analysis.plots import COLORS, MARKERS, ideal_bits_above, law_words, plain_axes
from capscale.analysis.printed import printed
from capscale.capacity import Form
from capscale.errors import UserError
from capscale.representation import Representation

WIDTH = 6.4
"""Inches, of every picture."""
PRINTED = "#777777"
Place = Literal["best", "upper left", "upper right", "lower left", "lower right"]
GMSE_WORDS = "GMSE (mean squared error on Gaussian data)"


class Style(NamedTuple):
    """How a series looks."""

    color: str
    marker: str
    hollow: bool = False


class Line(NamedTuple):
    """How a curve looks."""

    color: str
    dashes: str | tuple[float, tuple[float, ...]] = "-"


DASHED = (0.0, (5.0, 2.0))


def style(index: int, *, hollow: bool = False) -> Style:
    """Of the `index`-th series."""
    return Style(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], hollow)


def panels(rows: int = 1, columns: int = 1, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure of `WIDTH` by `height` inches with plain axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    every = [figure.add_subplot(rows, columns, k + 1) for k in range(rows * columns)]
    for axes in every:
        plain_axes(axes)
        axes.tick_params(labelsize=8.5)
    return figure, every


def against_error(axes: Axes, low: float, high: float, *, words: bool = True) -> None:
    """GMSE from `low` to `high` with a margin along x, capacity along y, and the bits of an ideal format above.

    Without `words`, for a panel beside another, axes are named in short.
    """
    axes.set_xscale("log")
    axes.set_xlim(low / 1.6, min(high * 1.6, 1.0))
    axes.set_xlabel(GMSE_WORDS if words else "GMSE", fontsize=9)
    axes.axhline(1.0, color="#888888", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    if words:
        axes.set_ylabel("capacity ρ", fontsize=9)
    ideal_bits_above(axes, "bits of an ideal format of this error" if words else "ideal bits")


def ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates and the ends of their 95 % intervals, of values with resamples (..., 1 + S)."""
    low, high = np.quantile(values[..., 1:], [0.025, 0.975], axis=-1)
    return values[..., 0], low, high


def bars(axes: Axes, x: Sequence[float] | np.ndarray, values: np.ndarray, look: Style, label: str = "") -> None:
    """Values with resamples (F, 1 + S) at `x`, as marks with 95 % bars."""
    middle, low, high = ends(values)
    axes.errorbar(
        np.asarray(x, float),
        middle,
        yerr=[np.maximum(middle - low, 0).tolist(), np.maximum(high - middle, 0).tolist()],
        fmt=look.marker,
        color=look.color,
        markerfacecolor="white" if look.hollow else look.color,
        markersize=5,
        capsize=2.2,
        linewidth=1,
        label=label or None,
        zorder=3,
    )


def band(axes: Axes, x: np.ndarray, curves: np.ndarray, look: Line, label: str = "") -> None:
    """A curve with the band of its refits, (1 + R, M) on `x`."""
    middle, low, high = ends(curves.T)
    axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0, zorder=1)
    axes.plot(x, middle, color=look.color, linestyle=look.dashes, linewidth=1.4, label=label or None, zorder=2)


def printed_marks(axes: Axes, x: Sequence[float], rho: Sequence[float], label: str, marker: str = "D") -> None:
    """Numbers that the paper prints."""
    axes.plot(
        np.asarray(x, float),
        np.asarray(rho, float),
        marker,
        color=PRINTED,
        markerfacecolor="none",
        markersize=7,
        markeredgewidth=1.1,
        label=label,
        zorder=4,
    )


def key(axes: Axes, place: Place = "best") -> None:
    """The legend; nothing where nothing has a name."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, names, loc=place, fontsize=8, frameon=False)


def shared_key(figure: Figure, columns: int = 3) -> None:
    """One legend below all panels, each name once."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        for handle, name in zip(handles, names, strict=True):
            named.setdefault(name, handle)
    if named:
        figure.legend(
            list(named.values()),
            list(named),
            loc="outside lower center",
            ncols=columns,
            fontsize=8,
            frameon=False,
            columnspacing=1.2,
            handletextpad=0.5,
        )


def title(axes: Axes, text: str) -> None:
    """A small title at the left."""
    axes.set_title(text, fontsize=9.5, loc="left", color=INK)


def nothing(axes: Axes, reason: str) -> None:
    """Words in place of what could not be measured."""
    axes.text(0.5, 0.5, as_label(reason), transform=axes.transAxes, ha="center", va="center", fontsize=8.5, wrap=True)


def found(evidence: Evidence, representations: Iterable[Representation]) -> Measured | None:
    """Those that have a capacity; None where none has."""
    try:
        return measured(evidence, representations)
    except UserError:
        return None


def curve(axes: Axes, series: Measured, form: Form, look: Line, label: str = "") -> CapacityLaw | None:
    """A form through measured capacities with its band over their errors; None where they follow none, or are too few.

    With a label, it is followed by the numbers of the form.
    """
    try:
        law = through(series, form)
    except UserError:
        return None
    if on_bound(law):
        return None
    x = np.geomspace(series.gmse.min() / 1.2, min(series.gmse.max() * 1.2, 0.97), 150)
    band(axes, x, of_errors(law, x), look, f"{label}: {law_words(law)}" if label else "")
    return law


def on_a_curve(axes: Axes, series: Measured, form: Form, look: Style, label: str) -> CapacityLaw | None:
    """Capacities against their errors with the form through them, whose numbers stand in the legend."""
    law = curve(axes, series, form, Line(look.color))
    bars(axes, series.gmse, series.rho, look, f"{label}: {law_words(law)}" if law else label)
    return law


def printed_bits(least: int = 1) -> dict[int, float]:
    """Capacities of integer weights of Figure 6, by their bits from `least` on."""
    return {int(bits): rho for bits, rho in printed()["6"].alone(0).items() if least <= int(bits) < 16}


def printed_integers(axes: Axes, least: int = 1) -> None:
    """The same, at the errors of the formats."""
    rho = printed_bits(least)
    printed_marks(axes, [gaussian_error(f"int{bits}") for bits in rho], list(rho.values()), "INT, printed in Figure 6")


def printed_integer_pairs(axes: Axes) -> None:
    """Capacities of integers of equal bits on both operands, of Figure 6, at the error of one."""
    grid = printed()["6"].grid
    bits = [level for level in grid.axes[0].levels if level != grid.axes[0].dense]
    rho = [grid.capacity[grid.axes[0].levels.index(b), grid.axes[1].levels.index(b)] for b in bits]
    printed_marks(axes, [gaussian_error(f"int{b}") for b in bits], rho, "INT, printed in Figure 6")


def printed_sparsities(axes: Axes, x: Callable[[float], float]) -> None:
    """Capacities of sparse weights of Figures 2b and 9, at `x` of their shares of zeros."""
    for figure, marker in (("2b", "s"), ("9", "^")):
        rho = {x(float(share)): value for share, value in printed()[figure].alone(0).items() if share != "0"}
        printed_marks(axes, list(rho), list(rho.values()), f"sparse, printed in Figure {figure}", marker)
