"""Marks of a figure that say their numbers where a pointer rests on them, in figures that stand in a page."""

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GID = "hover-"
"""How the ids of these marks begin; what follows is the key of what they stand for."""
RADIUS = 6.0
"""Of the place that answers to the pointer, in points (1/72 inch): more than that of a mark."""


def hover(axes: Axes, x: float, y: float, words: str, key: str = "") -> None:
    """Makes the place of a mark say `words`; rows of a table with the same `key` light up with it.

    Nothing is drawn: `capscale.analysis.inline_svg` makes a tooltip of the mark.
    """
    # A label that begins with _ is in no legend. It carries the words, of which matplotlib draws nothing.
    axes.plot([x], [y], "o", markersize=2 * RADIUS, alpha=0.0, label=f"_{words}", gid=f"{GID}{key}", zorder=10)


def words_of(figure: Figure) -> list[tuple[str, str]]:
    """Keys and words of the marks of a figure, in the order in which they are drawn."""
    found: list[Artist] = []
    for axes in figure.axes:
        found += [line for line in axes.lines if str(line.get_gid() or "").startswith(GID)]
    return [(str(a.get_gid()).removeprefix(GID), str(a.get_label()).removeprefix("_")) for a in found]
