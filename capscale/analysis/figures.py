"""More pictures: profiles, and the plane of error and bits."""

import math
from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from capscale.analysis.hover import hover
from capscale.analysis.labels import INK, Named, as_label, place_labels
from capscale.analysis.plots import COLORS, new_axes, plain_axes
from capscale.analysis.profiles import LEVEL, Profile
from capscale.analysis.study import Study

PANEL_IN = 2.6
"""Width of a profile, in inches."""
TITLE_CHARACTERS = 32
"""Of a line of the title, for each profile beside another."""
TOP = 2.3
"""Of a profile's picture, over its limit: about three standard deviations."""


def profile_curves(profiles: Sequence[Profile], *, title: str) -> Figure:
    """Rise of the objective as each number is held fixed: narrow valleys are measured, flat ones are not."""
    columns = min(3, len(profiles))
    lines = -(-len(profiles) // columns)
    words = wrap(as_label(title), TITLE_CHARACTERS * columns)
    figure = Figure(figsize=(PANEL_IN * columns, 2.2 * lines + 0.1 + 0.2 * len(words)), layout="constrained")
    figure.suptitle("\n".join(words), fontsize=10, x=0.01, ha="left")
    for k, p in enumerate(profiles):
        axes = figure.add_subplot(lines, columns, k + 1)
        plain_axes(axes)
        axes.plot(*p.curve(), color=COLORS[0], linewidth=1.4)
        axes.plot(p.value, p.statistic, ".", color=COLORS[0], markersize=2.5)
        limit = p.reference.limit(LEVEL)
        axes.axhline(limit, color=COLORS[1], linewidth=0.9, linestyle=(0, (4, 2)))
        axes.axvline(p.estimate, color=INK, linewidth=0.7)
        axes.set_ylim(-0.05 * limit, TOP * limit)
        axes.set_xlim(*_shown(p))
        axes.set_xlabel(as_label(p.name), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        if k % columns == 0:
            axes.set_ylabel("2 Δobjective / τ", fontsize=8.5)
        if k == 0:
            axes.annotate(
                "95 %", (0.99, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
            )
    return figure


def _shown(p: Profile) -> tuple[float, float]:
    """The stretch of a profile that is drawn: its 95 % interval with a margin; to a bound where an end is open."""
    low, high = p.interval()[1:]
    every = np.append(p.value, p.estimate)
    left, right = (low if np.isfinite(low) else every.min()), (high if np.isfinite(high) else every.max())
    margin = 0.6 * (right - left) if right > left else 0.1 * max(abs(p.estimate), 1.0)
    return (
        left - (margin if np.isfinite(low) else 0.03 * margin),
        right + (margin if np.isfinite(high) else 0.03 * margin),
    )


def error_against_bits(study: Study, bits: dict[str, float]) -> Figure:
    """GMSE against stored bits of weights, with the bound that no format passes; capacity as the mark's size."""
    figure, axes = new_axes()
    rows = [c for c in study.capacities if c.curve in bits]
    top = max([8.5, *(bits[c.curve] for c in rows)]) + 1.5
    x = np.linspace(0, top, 100)
    axes.plot(x, 4.0**-x, color=INK, linewidth=1.3)
    axes.fill_between(x, 4.0**-x, 1e-9, color="#eeeeee", linewidth=0)
    axes.text(0.6, 4.0**-1.6 * 0.05, "no format can be here", fontsize=9, color="#555555")
    sizes = [30 + 220 * c.rho.estimate for c in rows]
    axes.scatter(
        [bits[c.curve] for c in rows],
        [c.gmse for c in rows],
        sizes,
        color=COLORS[0],
        alpha=0.75,
        edgecolor="white",
        linewidth=0.6,
        zorder=3,
    )
    axes.set_yscale("log")
    axes.set_xlim(0, top)
    axes.set_ylim(min(4.0**-9, *(c.gmse / 3 for c in rows)), 1)
    axes.set_xlabel("stored bits per weight, masks and scales included")
    axes.set_ylabel("GMSE")
    axes.set_title("area: capacity measured; line: rate-distortion bound 4$^{-bits}$", fontsize=9, loc="left")
    plain_axes(axes)
    keys = {c.curve: f"f{i}" for i, c in enumerate(study.capacities)}
    for c in rows:
        words = f"{c.curve}\n{bits[c.curve]:.3g} bits a weight\nGMSE {c.gmse:.4g}\nρ {c.rho.estimate:.3f}"
        hover(axes, bits[c.curve], c.gmse, words, keys[c.curve])
    # Areas are in square points.
    radii = [math.sqrt(size / math.pi) for size in sizes]
    named = [Named(bits[c.curve], c.gmse, c.curve, c.gmse, c.gmse, r) for c, r in zip(rows, radii, strict=True)]
    place_labels(axes, named, [np.stack([x, 4.0**-x], 1)])
    return figure
