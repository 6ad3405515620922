"""Pictures whose points, whiskers and names stand inside their axes, and apart."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import t as student
from support.drawn import faults, names, overlap, whiskers
from support.synthetic import rho_of, runs

from capscale.analysis import bench_figure
from capscale.analysis.cells import mean_losses
from capscale.analysis.factorization import product
from capscale.analysis.fit import Settings
from capscale.analysis.heat_maps import factorization_maps
from capscale.analysis.labels import Named, place_labels, spread
from capscale.analysis.loss_figure import loss_against_size, size_name
from capscale.analysis.pictures import pictures
from capscale.analysis.plots import capacity_against_error, measured_against_predicted, new_axes, side_by_side
from capscale.analysis.printed import printed
from capscale.analysis.study import study
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import Interval

pytestmark = pytest.mark.ci

NAMES = ("int8", "int4", "int2", "int1", "top50", "2:4", "top75", "2:4+int4", "higgs-d2-n16")


@pytest.fixture(scope="module")
def found():
    rho = {n: rho_of(n) for n in NAMES} | {"top50 [forward_mask]": 0.75}
    return study(make_table(runs(rho, noise=0.02), "x", strict=False), settings=Settings(starts=8), resamples=60)


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
    labels = [text.get_text() for text in axes.get_figure().legends[0].get_texts()]
    assert sum(label.startswith("integer: ρ = tanh") for label in labels) == 1
    assert sum(label.startswith("sparse: ρ = tanh") for label in labels) == 1
    assert "vector" in labels
    assert "sparse, another gradient estimator" in labels
    dropped = replace(found.capacities[0], why_not="its bound")
    fewer = capacity_against_error(replace(found, capacities=(dropped, *found.capacities[1:]))).axes[0]
    assert dropped.curve not in names(fewer)


def test_there_is_no_picture_of_nothing(found):
    unmeasured = replace(found, capacities=tuple(replace(c, why_not="its bound") for c in found.capacities))
    drawn = pictures(unmeasured)
    assert [p.name for p in drawn] == ["loss", "profiles"]
    assert [f for p in drawn for f in faults(p.figure)] == []


LONG = {"int2": "a-format-of-a-long-name-" * 2, "int4": "another $format$ with a formula", "top75": "<script>"}


def renamed(study):
    """The study with names that are long, or mean something to matplotlib."""
    rows = tuple(r._replace(curve=LONG.get(r.curve, r.curve)) for r in study.core.rows)
    capacities = tuple(replace(c, curve=LONG.get(c.curve, c.curve)) for c in study.capacities)
    return replace(study, core=replace(study.core, rows=rows), capacities=capacities)


@pytest.mark.parametrize("change", [pytest.param(lambda s: s, marks=pytest.mark.slow), renamed])
def test_no_text_of_any_figure_collides_or_runs_out(found, change):
    drawn = pictures(change(found))
    assert [p.name for p in drawn] == ["capacity", "loss", "agreement", "profiles", "plane"]
    assert {p.name: faults(p.figure) for p in drawn} == {p.name: [] for p in drawn}


def test_figures_of_one_format_are_as_clear(found):
    alone = tuple(c for c in found.capacities if c.curve == "int4")
    assert [f for p in pictures(replace(found, capacities=alone, kinds=())) for f in faults(p.figure)] == []


def test_the_figure_of_the_bench_is_as_clear(monkeypatch):
    def law(name, *errors):
        folds = dict(zip("ND", errors[1:], strict=False))
        return SimpleNamespace(name=name, rmse=errors[0], along=folds.get, formats=errors[3])

    lines = [law("tanh", 0.001, 0.2, 0.03, 0.5), law("a law with a name of some length", 0.0002, 0.3, 0.9, 4.0)]
    monkeypatch.setattr(bench_figure, "in_order", lambda bench: lines)
    monkeypatch.setattr(bench_figure, "pooled", lambda error: error)
    table = SimpleNamespace(table=SimpleNamespace(source="some/where/$runs$.csv"))
    assert faults(bench_figure.bench_plot([table])) == []
    assert faults(bench_figure.bench_plot([table, table])) == []


def test_heat_maps_are_as_clear():
    assert faults(factorization_maps(product(printed()["6"].grid))) == []


def test_what_is_cut_or_collides_is_a_fault():
    figure = Figure()
    axes = figure.add_subplot()
    axes.errorbar([1, 2], [1, 2], yerr=[0.1, 0.5])
    axes.set_ylim(0, 2.2)
    axes.annotate("far", (1, 1), xytext=(0.95, 0.5), textcoords="axes fraction", fontsize=40)
    axes.annotate("near", (1, 1), xytext=(0.94, 0.5), textcoords="axes fraction", fontsize=40)
    found = " ".join(faults(figure))
    for fault in ("'near' collides with 'far'", "'far' runs out of its axes", "out of the figure", "ends at 2, 2.5"):
        assert fault in found


@pytest.mark.parametrize(("column", "bars"), [({"seed": 0}, 0), ({"loss_se": 0.01}, 6)])
def test_losses_have_the_errors_that_the_table_has(found, column, bars):
    rows = tuple(r._replace(**column) for r in found.core.rows)
    axes = loss_against_size(replace(found, core=replace(found.core, rows=rows))).axes[0]
    assert len(whiskers(axes)) == 2 * bars  # an error of the text is shared: at dense alone


def test_losses_of_seeds_are_means_with_intervals(found):
    twice = tuple(
        r._replace(seed=s, loss=r.loss + 0.01 * s, run=f"{r.run} {s}") for r in found.core.rows for s in (0, 1)
    )
    core = replace(found.core, rows=twice)
    cells = mean_losses(core, twice)
    assert len(cells) == len(found.core.rows)
    freedom, deviation = len(cells), 0.01 / 2**0.5
    assert {c.runs for c in cells} == {2}
    assert cells[0].half == pytest.approx(student.ppf(0.975, freedom) * deviation / 2**0.5)
    axes = loss_against_size(replace(found, core=core)).axes[0]
    assert len(whiskers(axes)) == 2 * len(cells)


@pytest.mark.parametrize("heights", [[0.5] * 6, [0.0, 0.01, 0.99, 1.0, 0.2], [0.7]])
def test_places_are_apart_in_order_and_inside(heights):
    places = spread(np.array(heights), 0.1)
    assert np.all(np.diff(np.sort(places)) > 0.1 - 1e-9)
    assert 0.05 - 1e-9 <= places.min() <= places.max() <= 0.95 + 1e-9
    order = np.argsort(heights, kind="stable")
    assert np.all(np.diff(places[order]) > 0)


def test_sizes_are_named_as_models_are():
    assert [size_name(N) for N in (5, 500, 2e4, 3e7, 1.5e9, 7e13)] == ["5", "500", "20k", "30M", "1.5B", "70T"]


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
