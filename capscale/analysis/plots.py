"""Pictures: readable in print, and without colour (every series has its own marker and line).

Each function draws on a new matplotlib Figure, without pyplot and so without a display, and returns it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.kinds import Kind
from capscale.analysis.labels import INK, Named, as_label, place_labels
from capscale.analysis.measure import CapacityLaw
from capscale.analysis.study import Study
from capscale.analysis.table import Row

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#5F5F5F", "#7A3E9D")
"""Okabe & Ito's palette for colour-blind readers, its yellow and black replaced by inks that print."""
MARKERS = "osD^vP*Xph<>"
SIZE = (6.4, 4.2)
OTHER = ", another gradient estimator"
MOST_NAMES = 10
"""Names that fit beside the ends of their lines; more go into a legend."""


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


def spread_labels(axes: Axes, points: Sequence[tuple[float, float, str]], *, gap: float = 0.045) -> None:
    """Names beside points, pushed apart vertically until none overlaps; a thin line leads back where one moved."""
    to_axes = axes.transData + axes.transAxes.inverted()
    points = sorted(points, key=lambda p: -p[1])
    columns, heights = np.array([to_axes.transform(p[:2]) for p in points], float).T
    for _ in range(200):
        moved = False
        for i in range(len(points)):
            for j in range(i):
                overlap = gap - (heights[j] - heights[i])
                if overlap > 1e-6 and abs(columns[i] - columns[j]) < 0.25:
                    heights[j] += overlap / 2
                    heights[i] -= overlap / 2
                    moved = True
        if not moved:
            break
    for (x, y, text), px, at in zip(points, columns, heights, strict=True):
        py = to_axes.transform((x, y))[1]
        axes.annotate(
            as_label(text),
            (x, y),
            xytext=(px + 0.022, at),
            textcoords=axes.transAxes,
            va="center",
            fontsize=8.5,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6} if abs(at - py) > gap / 2 else None,
        )


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
    axes.set_ylim(min(0.0, *(c.rho.low for c in rows)), 1.05 * max(1.0, *(c.rho.high for c in rows)))
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
    _legend(axes, study, "lower left", curves=True)
    place_labels(axes, [Named(at[c.curve], c.rho.estimate, c.curve, c.rho.low, c.rho.high) for c in rows], lines)
    return figure


def _legend(axes: Axes, study: Study, place: Literal["lower left", "upper left"], *, curves: bool = False) -> None:
    """One entry for each kind, without whiskers; with `curves`, its mark on its line and the law's numbers."""
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
    axes.legend(handles=[*shown, *others], loc=place, fontsize=8, frameon=False)


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


def loss_against_size(study: Study) -> Figure:
    """Loss against N, a line per format, and how far left on the dense curve each format's largest run stands."""
    figure, axes = new_axes(6.8 if len(study.core.curves) <= MOST_NAMES else 8.6, 4.6)
    rows = study.core.rows
    shown, budget = one_budget(rows)
    sizes = sorted({r.N for r in shown})
    worth = {e.run: e.size for e in study.equivalents}
    dashes = any(r.run in worth for r in shown)
    grid = (min([sizes[0], *worth.values()]) * 0.8, sizes[-1] * 1.25)
    dense = sorted({(r.N, r.loss) for r in shown if r.is_dense})
    axes.plot([N for N, _ in dense], [loss for _, loss in dense], color=INK, linewidth=1.8, zorder=2)
    names, first_losses = [], []
    for i, curve in enumerate(c for c in study.core.curves if any(r.curve == c for r in shown)):
        mine = sorted((r for r in shown if r.curve == curve), key=lambda r: r.N)
        color, marker = (INK, "o") if curve == "dense" else (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)])
        axes.plot(
            [r.N for r in mine],
            [r.loss for r in mine],
            marker,
            color=color,
            markersize=5,
            zorder=4,
            label=as_label(curve),
        )
        last = mine[-1]
        names.append((last.N, last.loss, curve))
        first_losses.append((mine[0].N, mine[0].loss, curve))
        if curve == "dense":
            continue
        axes.plot([r.N for r in mine], [r.loss for r in mine], color=color, linewidth=1, zorder=3)
        size = worth.get(last.run)
        if size is not None:
            axes.plot([size, last.N], [last.loss] * 2, color=color, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
            axes.plot([size], [last.loss], marker="|", color=color, markersize=9, zorder=3)
    axes.set_xscale("log")
    axes.set_xlabel("non-embedding parameters N")
    axes.set_ylabel("validation loss, nats per token")
    axes.set_xlim(grid[0], grid[-1] * 2.4)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.05 * (high - low), high)
    axes.set_title(
        f"Dashes: to the dense model of the same loss as a format's largest one; {budget}" if dashes else budget,
        fontsize=9,
        loc="left",
    )
    if len(names) > MOST_NAMES:
        axes.set_xlim(*grid)
        order = np.argsort([-loss for _, loss, _ in first_losses])
        handles, labels = axes.get_legend_handles_labels()
        listed = [labels.index(as_label(names[i][2])) for i in order]
        at = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend([handles[i] for i in listed], [labels[i] for i in listed], fontsize=8, frameon=False, **at)
        return figure
    figure.draw_without_rendering()
    spread_labels(axes, names)
    return figure


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


def measured_against_predicted(study: Study) -> Figure:
    """rho measured against rho of the one curve: on the diagonal it is right. Every interval is inside the axes."""
    figure, axes = new_axes(5.6, 5.6)
    rows = [c for c in study.capacities if c.is_measured and np.isfinite(c.law)]
    top = 1.04 * max(1.0, *(c.rho.high for c in rows), *(c.law for c in rows))
    bottom = min(0.0, *(c.rho.low for c in rows))
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
    _legend(axes, study, "upper left")
    named = [Named(c.law, c.rho.estimate, c.curve, c.rho.low, c.rho.high) for c in rows]
    place_labels(axes, named, [np.stack([diagonal, diagonal], 1)])
    return figure
