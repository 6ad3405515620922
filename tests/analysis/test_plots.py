"""Pictures whose points, whiskers and names stand inside their axes, and apart."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Annotation, Text
from support.synthetic import rho_of, runs

from capscale.analysis.fit import Settings
from capscale.analysis.labels import Named, place_labels
from capscale.analysis.pictures import pictures
from capscale.analysis.plots import capacity_against_error, measured_against_predicted, new_axes, side_by_side
from capscale.analysis.study import study
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import Interval

NAMES = ("int8", "int4", "int2", "int1", "top50", "2:4", "top75", "2:4+int4", "higgs-d2-n16")


@pytest.fixture(scope="module")
def found():
    rho = {n: rho_of(n) for n in NAMES} | {"top50 [forward_mask]": 0.75}
    return study(make_table(runs(rho, noise=0.02), "x", strict=False), settings=Settings(starts=8), resamples=60)


def whiskers(axes):
    """Ends of all whiskers (M, 2)."""
    bars = [bar for c in axes.containers if isinstance(c, ErrorbarContainer) for bar in c.lines[2]]
    return np.concatenate([np.concatenate(bar.get_segments()) for bar in bars])


def names(axes):
    """Rectangles of all names in pixels, by name."""
    renderer = FigureCanvasAgg(axes.get_figure()).get_renderer()
    axes.get_figure().draw_without_rendering()
    # Without the lines that lead to their points.
    return {t.get_text(): Text.get_window_extent(t, renderer) for t in axes.texts if isinstance(t, Annotation)}


def overlap(a, b):
    return max(0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0, min(a.y1, b.y1) - max(a.y0, b.y0))


@pytest.mark.parametrize("draw", [capacity_against_error, measured_against_predicted])
def test_every_interval_is_inside_its_axes(found, draw):
    tall = replace(found.capacities[0], rho=Interval(0.9, -0.1, 1.9))
    axes = draw(replace(found, capacities=(tall, *found.capacities[1:]))).axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    ends = whiskers(axes)
    assert len(ends) == 2 * len(found.capacities)
    assert np.all((left <= ends[:, 0]) & (ends[:, 0] <= right) & (bottom <= ends[:, 1]) & (ends[:, 1] <= top))


@pytest.mark.parametrize("draw", [capacity_against_error, measured_against_predicted])
def test_names_do_not_collide_and_stay_inside(found, draw):
    axes = draw(found).axes[0]
    boxes = names(axes)
    assert set(boxes) == {c.curve for c in found.capacities}
    frame = axes.get_window_extent()
    for name, box in boxes.items():
        assert np.all((frame.min <= box.min) & (box.max <= frame.max)), name
        assert not [other for other, b in boxes.items() if other != name and overlap(box, b) > 1], name


def test_a_kind_has_one_colour_and_marker_and_only_measured_formats_are_drawn(found):
    axes = capacity_against_error(found).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sum(label.startswith("integer: ρ = tanh") for label in labels) == 1
    assert sum(label.startswith("sparse: ρ = tanh") for label in labels) == 1
    assert "vector" in labels
    assert "sparse, another gradient estimator" in labels
    dropped = replace(found.capacities[0], why_not="its bound")
    fewer = capacity_against_error(replace(found, capacities=(dropped, *found.capacities[1:]))).axes[0]
    assert dropped.curve not in names(fewer)


def test_there_is_no_picture_of_nothing(found):
    unmeasured = replace(found, capacities=tuple(replace(c, why_not="its bound") for c in found.capacities))
    assert [p.name for p in pictures(unmeasured)] == ["loss", "profiles"]
    assert [p.name for p in pictures(found)] == ["capacity", "loss", "agreement", "profiles", "plane"]


def test_formats_of_one_error_stand_side_by_side():
    x = side_by_side([0.1, 0.1, 0.001, 0.1])
    assert x[2] == pytest.approx(0.001)
    assert len(set(x)) == 4
    assert np.max(np.log(np.array(x) / [0.1, 0.1, 0.001, 0.1])) < 0.11


def test_a_crowd_of_names_is_spread():
    _, axes = new_axes()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    place_labels(axes, [Named(0.5 + 0.01 * k, 0.5, f"format {k}", 0.45, 0.55) for k in range(6)])
    boxes = list(names(axes).values())
    assert all(overlap(a, b) <= 1 for i, a in enumerate(boxes) for b in boxes[:i])
