"""Pictures: readable in print, and without colour (every series has its own marker and line).

Each function draws on a new matplotlib Figure, without pyplot and so without a display, and returns it.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.hover import hover
from capscale.analysis.kinds import Kind
from capscale.analysis.labels import INK, Named, as_label, place_labels, text_inches
from capscale.analysis.measure import CapacityLaw
from capscale.analysis.study import Study

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#5F5F5F", "#7A3E9D")
"""Okabe & Ito's palette for colour-blind readers, its yellow and black replaced by inks that print."""
MARKERS = "osD^vP*Xph<>"
SIZE = (6.4, 4.2)
KEY_FONT = 8.0
"""Of legends, in points."""
KEY_MARK_IN = 0.6
"""Room that a legend's mark and the distance to the next column take, in inches."""
OTHER = ", another gradient estimator"
FEWEST_TICKS = 3
"""Powers of ten on a logarithmic axis from which it needs no ticks between them."""
MARGIN = 0.03
"""Share of an axis between the outermost whisker and its end, so that no cap is cut."""


def new_axes(width: float = SIZE[0], height: float = SIZE[1]) -> tuple[Figure, Axes]:
    """A figure with one plain axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: Axes) -> None:
    """No box, faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def styles(study: Study) -> dict[str, tuple[str, str]]:
    """Colour and marker of every kind of representation, those with most formats first."""
    counts = Counter(c.kind for c in study.capacities)
    names = [kind for kind, _ in counts.most_common()]
    return {kind: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, kind in enumerate(names)}


def capacity_against_error(study: Study) -> Figure:
    """rho against GMSE: measured points with 95 % bars, a curve with its band per kind, and one curve through all.

    A kind with too few formats for a curve has points only; hollow marks are formats with another estimator.
    """
    figure, axes = new_axes(7.2, 4.8)
    rows = [c for c in study.capacities if c.is_measured and np.isfinite(c.gmse)]
    style = styles(study)
    low, high = min(c.gmse for c in rows), max(c.gmse for c in rows)
    axes.set_xscale("log")
    axes.set_xlim(low / 2.2, min(high * 2.2, 1.0))
    log_ticks(axes.xaxis, axes.get_xlim(), "{:g}".format)
    axes.set_ylim(*with_margin([0.0, 1.0, *(end for c in rows for end in c.rho)]))
    lines = [_curve_of(axes, kind, style[kind.name][0]) for kind in study.kinds if kind.law is not None]
    if study.capacity_law is not None and len(study.kinds) > 1:
        x = np.geomspace(low / 1.8, min(high * 1.8, 0.97), 200)
        y = study.capacity_law.curve(x)[0]
        words = f"one curve for all kinds: {law_words(study.capacity_law)}"
        axes.plot(x, y, color=INK, linewidth=0.9, linestyle=(0, (5, 3)), label=words, zorder=2)
        lines.append(np.stack([x, y], 1))
    at = dict(zip((c.curve for c in rows), side_by_side([c.gmse for c in rows]), strict=True))
    for kind, (color, marker) in style.items():
        for inside in (True, False):
            chosen = [c for c in rows if c.kind == kind and c.in_law == inside]
            if chosen:
                _points(axes, [at[c.curve] for c in chosen], chosen, (color, marker, inside, kind))
    axes.axhline(1.0, color="#888888", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlabel("GMSE: mean squared error of the format on Gaussian data, known before training")
    model = "a dense model" if study.unit == "dense" else f"a model in {as_label(study.unit)}"
    axes.set_ylabel(f"capacity ρ: share of the size of {model}")
    ideal_bits_above(axes, "bits of an ideal format of this error (rate-distortion bound: GMSE = 4$^{-bits}$)")
    _legend(axes, study, curves=True)
    _tell(axes, [at[c.curve] for c in rows], rows, study)
    place_labels(axes, [Named(at[c.curve], c.rho.estimate, c.curve, c.rho.low, c.rho.high) for c in rows], lines)
    return figure


def _legend(axes: Axes, study: Study, *, curves: bool = False) -> None:
    """One entry for each kind, without whiskers; with `curves`, its mark on its line and the law's numbers.

    It stands below the axes, where it hides no mark.
    """
    laws = {k.name: k.law for k in study.kinds}
    handles, names = axes.get_legend_handles_labels()
    shown, others = [], []
    for handle, name in zip(handles, names, strict=True):
        kind = name.removesuffix(OTHER)
        if kind not in styles(study):
            others.append(handle)
            continue
        color, marker = styles(study)[kind]
        law = laws.get(kind) if curves and kind == name else None
        fill = color if kind == name else "white"
        text = f"{as_label(name)}: {law_words(law)}" if law else as_label(name)
        line = "-" if law else ""
        shown.append(Line2D([], [], color=color, marker=marker, markerfacecolor=fill, linestyle=line, label=text))
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles = [*shown, *others]
    widest = max((text_inches(str(h.get_label()), KEY_FONT) for h in handles), default=0.0)
    columns = max(1, int(figure.get_figwidth() / (widest + KEY_MARK_IN)))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=KEY_FONT, frameon=False)


def _tell(axes: Axes, x: Sequence[float], rows: Sequence[CapacityRow], study: Study) -> None:
    """Numbers of every point, for the page."""
    keys = {c.curve: f"f{i}" for i, c in enumerate(study.capacities)}
    for at, c in zip(x, rows, strict=True):
        law = f"\nρ of one curve {c.law:.3f}" if np.isfinite(c.law) else ""
        error = f"\nGMSE {c.gmse:.4g}" if np.isfinite(c.gmse) else ""
        words = f"{c.curve}\nρ {c.rho.estimate:.3f} ({c.rho.low:.3f} to {c.rho.high:.3f}){error}{law}"
        hover(axes, at, c.rho.estimate, words, keys[c.curve])


def log_ticks(axis: Axis, limits: tuple[float, float], words: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, or at powers alone where those are enough.

    Matplotlib's own have names at all their minor ticks where an axis is short, which run into one another.
    """
    low, high = limits
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high]
    alone = [t for t in every if f"{t:e}".startswith("1.0")]
    ticks = alone if len(alone) >= FEWEST_TICKS else every
    axis.set_ticks(ticks, [words(t) for t in ticks])
    axis.set_minor_formatter(NullFormatter())


def with_margin(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds all of `values`, and `MARGIN` more at either end.

    Example: `with_margin([0.0, 1.0])` is `(-0.03, 1.03)`.
    """
    low, high = min(values), max(values)
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _curve_of(axes: Axes, kind: Kind, color: str) -> np.ndarray:
    """Draw the law of one kind with its band over the errors of its formats; returns the line (M, 2)."""
    assert kind.law is not None
    x = np.geomspace(kind.gmse[0] / 1.3, min(kind.gmse[1] * 1.3, 0.97), 200)
    y, below, above = kind.law.curve(x)
    axes.fill_between(x, below, above, color=color, alpha=0.13, linewidth=0, zorder=1)
    axes.plot(x, y, color=color, linewidth=1.7, zorder=2)
    return np.stack([x, y], 1)


def side_by_side(gmse: Sequence[float], step: float = 0.05) -> list[float]:
    """Where formats are drawn: those of one GMSE beside one another, so that no whisker hides another."""
    logs = np.log(gmse)
    order = np.argsort(logs, kind="stable")
    out = logs.copy()
    for k, i in enumerate(order[1:], 1):
        out[i] = max(out[i], out[order[k - 1]] + step) if logs[i] - logs[order[k - 1]] < step else out[i]
    return np.exp(out).tolist()


def ideal_bits_above(axes: Axes, words: str) -> None:
    """A second axis above, named `words`: the bits at which the rate-distortion bound 4^-b has this error."""
    top = axes.twiny()
    top.set_xscale("log")
    top.set_xlim(axes.get_xlim())
    low, high = axes.get_xlim()
    bits = [b for b in (0.5, 1, 2, 3, 4, 5, 6, 7, 8) if low <= 4.0**-b <= high]
    top.set_xticks([4.0**-b for b in bits], [f"{b:g}" for b in bits])
    top.minorticks_off()
    top.set_xlabel(words, fontsize=9)
    top.spines[["top", "right"]].set_visible(False)


def _points(axes: Axes, x: Sequence[float], rows: Sequence[CapacityRow], style: tuple[str, str, bool, str]) -> None:
    """Points with whiskers in the colour and marker of their kind, filled where the estimator is the format's own."""
    color, marker, filled, kind = style
    rho = np.array([c.rho for c in rows])
    axes.errorbar(
        x,
        rho[:, 0],
        yerr=_whiskers(rho),
        fmt=marker,
        color=color,
        markerfacecolor=color if filled else "white",
        markersize=5.5,
        capsize=2.5,
        linewidth=1,
        label=kind if filled else f"{kind}{OTHER}",
        zorder=3,
    )


def _whiskers(rho: np.ndarray) -> list[list[float]]:
    """Lengths below and above, as lists: matplotlib takes an array of one whisker for a scalar, with a warning."""
    return [np.maximum(rho[:, 0] - rho[:, 1], 0).tolist(), np.maximum(rho[:, 2] - rho[:, 0], 0).tolist()]


def law_words(law: CapacityLaw) -> str:
    """A form with its fitted numbers, short enough for a legend."""
    v = dict(law.capacity.values)
    if law.form.name.startswith("tanh"):
        front = f"{v['Lsat']:.2f} " if "Lsat" in v else ""
        return f"ρ = {front}tanh({v['F']:.3f} log$_{{1/4}}$ GMSE)$^{{{v['C']:.2f}}}$"
    return f"{law.form.name} ({', '.join(f'{k} = {x:.3g}' for k, x in v.items())})"


def measured_against_predicted(study: Study) -> Figure:
    """rho measured against rho of the one curve: on the diagonal it is right. Every interval is inside the axes."""
    figure, axes = new_axes(5.6, 5.6)
    rows = [c for c in study.capacities if c.is_measured and np.isfinite(c.law)]
    bottom, top = with_margin([0.0, 1.0, *(end for c in rows for end in (*c.rho, c.law))])
    axes.set_xlim(bottom, top)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    diagonal = np.linspace(bottom, top, 200)
    axes.plot(diagonal, diagonal, color="#888888", linewidth=0.9)
    for kind, (color, marker) in styles(study).items():
        for inside in (True, False):
            chosen = [c for c in rows if c.kind == kind and c.in_law == inside]
            if chosen:
                _points(axes, [c.law for c in chosen], chosen, (color, marker, inside, kind))
    axes.set_xlabel("ρ of one curve through all kinds")
    axes.set_ylabel("ρ measured, 95 % interval")
    _legend(axes, study)
    _tell(axes, [c.law for c in rows], rows, study)
    named = [Named(c.law, c.rho.estimate, c.curve, c.rho.low, c.rho.high) for c in rows]
    place_labels(axes, named, [np.stack([diagonal, diagonal], 1)])
    return figure
