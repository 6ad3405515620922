"""Names of a table in a picture: as they are, whatever matplotlib makes of characters, and where they hide nothing.

Places are found by a greedy search around each point."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.transforms import Bbox

INK = "#222222"
FONT = 8.5
DISTANCES = (3.0, 8.0, 14.0, 22.0, 32.0)
"""Of a name's nearest edge from its mark, in points (1/72 inch)."""
ANGLES = np.radians((0, 45, -45, 90, -90, 180, 135, -135, 22, -22, 158, -158))
"""Directions that are tried, the preferred ones first."""
CAP = 3.5
"""Half the width of a whisker's cap, and a little."""
LED = 10.0
"""Distance from which a thin line leads from a name to its point."""
LONGEST = 60
"""Characters of the longest label; more would leave a picture no room."""


def as_label(text: str) -> str:
    r"""`text` for matplotlib, where `$` begins a formula and a name that begins with `_` is left out of legends.

    Characters that the font has not, and those that are not printed, are written as their code: `\u4e2d`. Nothing is
    lost: the page beside the picture has the text itself.
    """
    known = _characters()
    shown = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    shown = "".join(c if c.isprintable() and ord(c) in known else c.encode("unicode_escape").decode() for c in shown)
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    """Code points of the font that labels are set in."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


class Named(NamedTuple):
    """A point with its name, the ends of its whisker, and the radius of its mark in points (1/72 inch)."""

    x: float
    y: float
    name: str
    low: float
    high: float
    radius: float = 4.0


def place_labels(axes: Axes, points: Sequence[Named], lines: Sequence[np.ndarray] = ()) -> None:
    """Write every name near its point and clear of names, points, whiskers, legend and `lines` (data, (M, 2) each).

    Limits and scales must be final. Names that find no free place take the least crowded one.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    scale = figure.dpi / 72
    to_pixels = axes.transData.transform
    frame = axes.get_window_extent(renderer)
    marks = np.array([to_pixels((p.x, p.y)) for p in points])
    radii = [p.radius * scale for p in points]
    taken = [Bbox.from_extents(x - r, y - r, x + r, y + r) for (x, y), r in zip(marks, radii, strict=True)]
    for p in points:
        (x, low), (_, high) = to_pixels((p.x, p.low)), to_pixels((p.x, p.high))
        taken.append(Bbox.from_extents(x - CAP * scale, low - scale, x + CAP * scale, high + scale))
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    inked = np.concatenate([to_pixels(line) for line in lines]) if lines else np.empty((0, 2))
    # Those in a crowd choose first: they have the fewest places.
    crowd = [np.sum(np.hypot(*(marks - m).T) < 60 * scale) for m in marks]
    for i in np.argsort(-np.array(crowd), kind="stable"):
        text = axes.text(0, 0, as_label(points[i].name), fontsize=FONT)
        width, height = text.get_window_extent(renderer).size
        text.remove()
        places = [_box(marks[i], radii[i] + d * scale, a, width, height) for d in DISTANCES for a in ANGLES]
        costs = [_cost(box, taken, inked, frame) + 0.02 * k for k, box in enumerate(places)]
        best = places[int(np.argmin(costs))]
        taken.append(best.padded(scale))
        far = np.hypot(*(np.clip(marks[i], best.min, best.max) - marks[i])) > radii[i] + LED * scale
        left, bottom = axes.transAxes.inverted().transform(best.min)
        axes.annotate(
            as_label(points[i].name),
            (points[i].x, points[i].y),
            xytext=(left, bottom),
            textcoords=axes.transAxes,
            fontsize=FONT,
            color=INK,
            va="bottom",
            zorder=6,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 4} if far else None,
        )


def _box(point: np.ndarray, distance: float, angle: float, width: float, height: float) -> Bbox:
    """The rectangle of a name whose nearest edge or corner stands `distance` pixels from the point."""
    x, y = point + distance * np.array([np.cos(angle), np.sin(angle)])
    left = x if np.cos(angle) > 0.3 else x - width if np.cos(angle) < -0.3 else x - width / 2
    bottom = y if np.sin(angle) > 0.8 else y - height if np.sin(angle) < -0.8 else y - height / 2
    return Bbox.from_bounds(left, bottom, width, height)


def _cost(box: Bbox, taken: Sequence[Bbox], inked: np.ndarray, frame: Bbox) -> float:
    """How much of what is drawn a name would hide, in shares of its own area; leaving the frame costs most."""
    area = box.width * box.height
    hidden = 0.0
    for other in taken:
        both = Bbox.intersection(box, other)
        hidden += 3 * both.width * both.height / area if both is not None and both.width * both.height > 0 else 0.0
    inside = np.all((inked >= box.min) & (inked <= box.max), axis=1)
    out = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
    return hidden + 0.3 * bool(inside.any()) + 10 * out
