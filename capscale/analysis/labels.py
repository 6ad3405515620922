"""Names of a table in a picture: as they are, whatever matplotlib makes of characters, and where they hide nothing.

Places are found by a greedy search around each point."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

INK = "#222222"
FONT = 8.5
LINE_IN = 1.3 * FONT / 72
"""Height of a line of names, in inches."""
DISTANCES = (3.0, 8.0, 14.0, 22.0, 32.0, 44.0, 60.0, 80.0)
"""Of a name's nearest edge from its mark, in points (1/72 inch)."""
ANGLES = np.radians((0, 45, -45, 90, -90, 180, 135, -135, 22, -22, 158, -158))
"""Directions that are tried, the preferred ones first."""
CAP = 3.5
"""Half the width of a whisker's cap, and a little."""
ROUNDS = 3
"""Times that every name chooses its place."""
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
    """Write every name near its point and clear of names, other texts, points, whiskers and legend.

    Names keep clear of `lines` as well (in data, (M, 2) each). Limits and scales must be final. Names that find no free
    place take the least crowded one.
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
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    inked = np.concatenate([to_pixels(line) for line in lines]) if lines else np.empty((0, 2))
    # Those in a crowd choose first: they have the fewest places. Then each chooses again, as the others stand now.
    crowd = [np.sum(np.hypot(*(marks - m).T) < 60 * scale) for m in marks]
    order = np.argsort(-np.array(crowd), kind="stable")
    choices = [_places(axes, p, mark, scale, renderer) for p, mark in zip(points, marks, strict=True)]
    chosen: dict[int, Bbox] = {}
    for i in np.tile(order, ROUNDS):
        others = _corners([box.padded(scale) for j, box in chosen.items() if j != i])
        costs = _costs(_corners(choices[i]), _corners(taken), others, inked, frame)
        chosen[i] = choices[i][int(np.argmin(costs + 0.02 * np.arange(len(costs))))]
    for i, point in enumerate(points):
        best = chosen[i]
        far = np.hypot(*(np.clip(marks[i], best.min, best.max) - marks[i])) > radii[i] + LED * scale
        left, bottom = axes.transAxes.inverted().transform(best.min)
        axes.annotate(
            as_label(point.name),
            (point.x, point.y),
            xytext=(left, bottom),
            textcoords=axes.transAxes,
            fontsize=FONT,
            color=INK,
            va="bottom",
            zorder=6,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 4} if far else None,
        )


def _places(axes: Axes, point: Named, mark: np.ndarray, scale: float, renderer: RendererAgg) -> list[Bbox]:
    """Rectangles around a mark where its name may stand, in pixels, the preferred ones first."""
    text = axes.text(0, 0, as_label(point.name), fontsize=FONT)
    width, height = text.get_window_extent(renderer).size
    text.remove()
    return [_box(mark, (point.radius + d) * scale, a, width, height) for d in DISTANCES for a in ANGLES]


def text_inches(text: str, size: float = FONT) -> float:
    """Width of a text as matplotlib sets it, formulas included, in inches."""
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(size=size)).get_extents().width) / 72


def names_beside(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names in a column to the right of the axes, each as near the height of its point as the others leave it.

    A thin line leads to a point that its name does not stand beside. Limits and scales must be final, the figure must
    have room for the names (`text_inches`), and the axes be as high as the names are many (`LINE_IN`).
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    texts = [
        axes.annotate(
            as_label(name),
            (x, y),
            xytext=(1.03, 0.5),
            textcoords=axes.transAxes,
            fontsize=FONT,
            color=INK,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 5},
        )
        for x, y, name in points
    ]
    figure.draw_without_rendering()  # names take their room beside the axes
    frame = axes.get_window_extent()
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = np.array([to_axes.transform((x, y))[1] for x, y, _ in points])
    gap = LINE_IN * figure.dpi / frame.height
    for text, at in zip(texts, spread(heights, gap), strict=True):
        text.set_position((1.03, at))


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Places within 0 and 1 that lie `gap` apart at least, in the order of `heights` and nearest to them.

    Where they do not all fit, they go beyond 1.

    Example: `spread(np.array([0.5, 0.5]), 0.2)` is `[0.4, 0.6]`.
    """
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    # Least squares under increasing places is isotonic regression of what is left without the gaps.
    free = isotonic_regression(heights[order] - steps).x
    low = gap / 2
    places = np.clip(free, low, max(low, 1 - low - steps[-1])) + steps
    out = np.empty(len(heights))
    out[order] = places
    return out


def _box(point: np.ndarray, distance: float, angle: float, width: float, height: float) -> Bbox:
    """The rectangle of a name whose nearest edge or corner stands `distance` pixels from the point."""
    x, y = point + distance * np.array([np.cos(angle), np.sin(angle)])
    left = x if np.cos(angle) > 0.3 else x - width if np.cos(angle) < -0.3 else x - width / 2
    bottom = y if np.sin(angle) > 0.8 else y - height if np.sin(angle) < -0.8 else y - height / 2
    return Bbox.from_bounds(left, bottom, width, height)


def _corners(boxes: Sequence[Bbox]) -> np.ndarray:
    """Rectangles as numbers: x0, y0, x1, y1 (M, 4)."""
    return np.array([b.extents for b in boxes]).reshape(-1, 4)


def _costs(places: np.ndarray, taken: np.ndarray, names: np.ndarray, inked: np.ndarray, frame: Bbox) -> np.ndarray:
    """How much of what is drawn a name would hide at each of its places (P, 4), in shares of its own area.

    Names that run into one another cost more than anything that they hide, and leaving the frame costs most.
    """
    low, high = places[:, None, :2], places[:, None, 2:]
    area = np.prod(places[:, 2:] - places[:, :2], axis=1)
    hidden = 3 * _shared(places, taken).sum(axis=1) / area + 5 * (_shared(places, names) > 0).sum(axis=1)
    crossed = np.all((inked >= low) & (inked <= high), axis=2).any(axis=1)
    out = np.any(places[:, :2] < frame.min, axis=1) | np.any(places[:, 2:] > frame.max, axis=1)
    return hidden + 0.6 * crossed + 20 * out


def _shared(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that each of the rectangles (P, 4) shares with each of others (O, 4): (P, O)."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2)
