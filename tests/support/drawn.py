"""Rectangles of what a figure shows, in pixels, as they are when it is saved."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Annotation, Text


def whiskers(axes):
    """Ends of all whiskers (M, 2), in data."""
    bars = [bar for c in axes.containers if isinstance(c, ErrorbarContainer) for bar in c.lines[2]]
    return np.concatenate([np.concatenate(bar.get_segments()) for bar in bars]) if bars else np.empty((0, 2))


def names(axes):
    """Rectangles of all names of points by name, without the lines that lead to them."""
    renderer = _renderer(axes.get_figure(root=True))
    return {t.get_text(): Text.get_window_extent(t, renderer) for t in axes.texts if isinstance(t, Annotation)}


def texts(figure):
    """Words and rectangles of every text that is drawn: titles, numbers at axes, names, legends."""
    renderer, found = _renderer(figure), []
    shown = [*figure.texts, *[t for legend in figure.legends for t in legend.get_texts()]]
    for axes in figure.axes:
        shown += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        shown += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            inside = [t for t in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if low <= t.get_loc() <= high]
            shown += [label for t in inside for label in (t.label1, t.label2)] + [axis.get_offset_text()]
    if figure._suptitle is not None and figure._suptitle not in shown:
        shown.append(figure._suptitle)
    for text in shown:
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), Text.get_window_extent(text, renderer)))
    return found


def overlap(a, b):
    """Pixels that two rectangles share."""
    return max(0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0, min(a.y1, b.y1) - max(a.y0, b.y0))


def faults(figure):
    """All that a figure shows badly, in words: texts that collide or run out, whiskers that are cut."""
    found, every, whole = [], texts(figure), figure.bbox
    for i, (text, box) in enumerate(every):
        if not (
            whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1 and whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1
        ):
            found.append(f"{text!r} runs out of the figure")
        found += [f"{text!r} collides with {other!r}" for other, o in every[:i] if overlap(box, o) > 1]
    for axes in figure.axes:
        frame = axes.get_window_extent()
        for name, box in names(axes).items():
            beside = box.x0 >= frame.x1  # a column of names beside the axes
            if not beside and (np.any(box.min < frame.min - 0.5) or np.any(box.max > frame.max + 0.5)):
                found.append(f"{name!r} runs out of its axes")
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for x, y in whiskers(axes):
            if not (left <= x <= right and bottom < y < top):
                found.append(f"a whisker ends at {x:g}, {y:g}, out of its axes")
        for legend in figure.legends:
            if overlap(legend.get_window_extent(), axes.get_tightbbox()) > 1:
                found.append("a legend hides what is drawn")
    return found


def _renderer(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    return renderer
