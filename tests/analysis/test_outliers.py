"""Rows that pull a fit are named, hidden ones too, and clean tables have none; the fit without them is the true one."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import f as f_distribution
from support.synthetic import TRUTH, rho_of

from capscale.analysis import forward_search
from capscale.analysis.conditioning import jacobian
from capscale.analysis.fit import Settings, fit
from capscale.analysis.forward_search import chance, search
from capscale.analysis.inspection import Inspection, inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.outliers import most_rows, outliers
from capscale.analysis.rows import read
from capscale.analysis.sentences.outlying import RULES
from capscale.analysis.sentences.quotable import refused
from capscale.analysis.sentences.rule import say
from capscale.analysis.table import make_table
from capscale.cli import main

pytestmark = pytest.mark.ci

SIZES, RATIOS = (3e7, 1e8, 3e8, 1e9), (25.0, 50.0, 100.0, 200.0)
FORMATS = ("dense", "int4", "int3", "int2")
LAW = ("alpha", "beta", "E", "F", "C")
QUICK = Settings(starts=16)
CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"


def records(seed=0, *, sizes=SIZES, ratios=RATIOS, noise=0.004, **rho):
    """Runs of the true law: formats of four sizes and four ratios, 64 in all."""
    random = np.random.default_rng(seed)
    capacity = {name: rho.get(name, rho_of(name)) for name in FORMATS}
    return [
        {"run": f"{name}-{N:g}-{q:g}", "N": N, "D": q * N, "weights": name, "activations": "dense",
         "loss": float(TRUTH.loss(N, q * N, capacity[name])) + random.normal(0, noise)}
        for name in FORMATS for N in sizes for q in ratios
    ]  # fmt: skip


def changed(rows, **losses):
    """The rows with some losses moved, by place."""
    return [{**r, "loss": r["loss"] + losses.get(f"row{i}", 0.0)} for i, r in enumerate(rows)]


def fitted(rows, law="tanh", settings=QUICK):
    return fit(make_table(rows, "made", strict=False), LAWS[law], settings)


def names(found):
    return {r.run for r in found.rows}


@pytest.mark.parametrize("law", ["tanh", "decoupled"])
def test_a_loss_that_is_off_is_named_and_left_out(law):
    rows = changed(records(), row20=7.0)
    found = outliers(fitted(rows, law))
    assert names(found) == {rows[20]["run"]}
    (row,) = found.rows
    assert row.loss - row.predicted == pytest.approx(7.0, abs=0.02)
    assert row.deviations > 500
    clean = fitted(records()[:20] + records()[21:], law)
    assert found.without.objective == pytest.approx(clean.objective, rel=1e-6)
    assert found.rmse == pytest.approx(clean.rmse, rel=1e-3)
    for curve, rho in clean.rho.items():
        assert found.rho[curve] == pytest.approx(rho, abs=1e-3)


def test_one_row_in_millions_is_named_though_the_fit_bends_to_it():
    rows = records()
    rows[37]["N"] /= 1e6
    whole = fitted(rows)
    found = outliers(whole)
    assert names(found) == {rows[37]["run"]}
    assert whole.rmse > 0.1
    assert found.rmse < 0.005
    assert found.without.values["alpha"] == pytest.approx(TRUTH.alpha, abs=0.02)


@pytest.mark.parametrize("law", ["tanh", "decoupled"])
def test_several_do_not_hide_one_another(law):
    rows = changed(records(), row5=6.0, row20=7.0, row35=1.2, row50=-1.0)
    rows[60]["N"] /= 1e6
    found = outliers(fitted(rows, law))
    assert names(found) == {rows[i]["run"] for i in (5, 20, 35, 50, 60)}
    assert found.rho["int4"] == pytest.approx(rho_of("int4"), abs=0.02)
    assert not found.law_is_wrong


@pytest.mark.parametrize("law", ["tanh", "decoupled"])
def test_as_many_as_hide_from_every_start_but_a_clean_subset(law):
    rows = records()
    off = (2, 9, 16, 23, 30, 37, 44, 51, 58)
    for i in off:
        rows[i]["N"] /= 1e6
    assert names(outliers(fitted(rows, law))) == {rows[i]["run"] for i in off}


def test_a_loss_below_the_irreducible_one_does_not_bound_it():
    rows = records()
    rows[30]["loss"] = 0.7
    found = outliers(fitted(rows))
    assert names(found) == {rows[30]["run"]}
    assert found.without.values["E"] == pytest.approx(TRUTH.E, abs=0.05)


def test_a_format_that_the_law_misses_is_set_aside_as_a_whole():
    found = outliers(fitted(records(int2=40.0)))
    assert found.formats == ("int2",)
    assert {r.curve for r in found.rows} == {"int2"}
    assert "int2" not in found.rho
    assert found.without.values["E"] == pytest.approx(TRUTH.E, abs=0.05)


def with_some_off(count):
    """Runs of which some are a nat too high or too low, and which."""
    random, rows = np.random.default_rng(0), records()
    off = random.permutation(len(rows))[:count]
    return changed(rows, **{f"row{i}": random.choice([-1.0, 1.0]) for i in off}), {rows[i]["run"] for i in off}


@pytest.mark.parametrize(("count", "wrong"), [(18, False), (19, True)])
def test_up_to_a_third_are_named_and_as_many_as_may_be_speak_against_the_law(count, wrong):
    rows, off = with_some_off(count)
    whole = fitted(rows)
    found = outliers(whole)
    assert most_rows(whole) == 19
    assert names(found) == off
    assert found.law_is_wrong is wrong
    of = Inspection(whole, {}, found)
    assert ("law wrong" in {s.rule for s in say(RULES, of)}) is wrong
    assert ("alpha" in refused(of)) is wrong


@pytest.mark.parametrize(("count", "unsaid"), [(0, set()), (20, set(LAW)), (25, set(LAW))])
def test_beyond_a_third_none_is_named_and_no_number_of_the_law_is_to_be_quoted(count, unsaid):
    found = inspect(fitted(with_some_off(count)[0]))
    assert not found.outlying.rows
    assert refused(found) == unsaid


def test_the_chance_of_rows_outside_is_an_f_test_of_their_shifts():
    """By two regressions, one with a shift for every row outside, times the number of sets as large."""
    random = np.random.default_rng(0)
    slope, off = random.normal(size=(12, 3)), random.normal(size=12)
    for m in (7, 9, 11):
        order, k = random.permutation(12), 12 - m
        shifts = np.eye(12)[:, order[m:]]
        rss = [
            np.sum((off - X @ np.linalg.lstsq(X, off, rcond=None)[0]) ** 2) for X in (slope, np.hstack([slope, shifts]))
        ]
        p = f_distribution.sf((rss[0] - rss[1]) / k / (rss[1] / (m - 3)), k, m - 3)
        found = chance(slope, off, order, m, m - 3)
        assert found == pytest.approx(min(math.comb(12, k) * p, 1.0), rel=1e-9)
    assert chance(slope, off + 100 * shifts[:, 0], order, 11, 8) < 1e-9


def test_clean_rows_of_any_choice_seldom_seem_outside():
    """The bound over every set of two among eight: of clean tables at most its own share has one below it."""
    random = np.random.default_rng(1)
    slope = random.normal(size=(8, 2))
    orders = [[*set(range(8)) - set(pair), *pair] for pair in itertools.combinations(range(8), 2)]
    least = [min(chance(slope, off, np.array(order), 6, 4) for order in orders) for off in random.normal(size=(150, 8))]
    assert 0.05 < np.mean(np.array(least) < 0.2) <= 0.2


@pytest.mark.parametrize(
    ("law", "ratios", "tables"),
    [("tanh", RATIOS, 30)]
    + [
        pytest.param(law, ratios, 200, marks=pytest.mark.slow)
        for law in ("tanh", "decoupled")
        for ratios in (RATIOS, (25.0, 100.0), (50.0,))
    ],
)
def test_clean_tables_have_none(law, ratios, tables):
    named = sum(bool(outliers(fitted(records(seed, ratios=ratios), law)).rows) for seed in range(tables))
    assert named <= max(0.03 * tables, 1)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_deviations_are_those_of_a_fit_without_the_row(logarithmic):
    rows, settings = changed(records(), row40=0.03), replace(QUICK, logarithmic=logarithmic)
    whole = fitted(rows, settings=settings)
    found = outliers(whole)
    (row,) = found.rows
    assert row.run == rows[40]["run"]
    rest = fit(whole.table.select(np.array([r.run != row.run for r in whole.table.rows])), LAWS["tanh"], settings)
    z = rest.z.copy()
    z[0] += z[2] * np.log(whole.problem.N0 / rest.problem.N0) * -1  # coordinates of the other table's N0 and D0
    z[1] += z[3] * np.log(whole.problem.D0 / rest.problem.D0) * -1
    at = replace(whole, z=z)
    J, one = jacobian(at), [r.run for r in whole.table.rows].index(row.run)
    kept = np.arange(len(J)) != one
    step = np.linalg.lstsq(J[kept], at.loss_units[kept], rcond=None)[0]  # least squares, where the fit is Huber's
    left = at.loss_units - J @ step
    variance = np.sum(left[kept] ** 2) / (kept.sum() - J.shape[1])
    leverage = J[one] @ np.linalg.inv(J[kept].T @ J[kept]) @ J[one]
    assert row.deviations == pytest.approx(left[one] / np.sqrt(variance * (1 + leverage)), rel=0.01)


def test_a_row_of_weight_zero_is_nothing_to_name():
    rows = [{**r, "weight": 0.0 if i == 20 else 1.0} for i, r in enumerate(changed(records(), row20=7.0))]
    assert not outliers(fitted(rows)).rows


def test_the_only_run_of_a_format_is_met_by_its_own_number():
    rows = [*records()[:16], {**records()[20], "loss": 4.2}]
    found = outliers(fitted(rows, "decoupled"))
    assert not found.rows


def test_too_few_runs_to_tell():
    rows = records(ratios=(50.0,))[:8]
    whole = fitted(rows, "decoupled")
    assert most_rows(whole) < 1
    assert outliers(whole).without is whole


def test_logarithmic_fits():
    found = outliers(fitted(changed(records(), row20=7.0), settings=replace(QUICK, logarithmic=True)))
    assert names(found) == {records()[20]["run"]}


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there: small tables that were judged wrongly")
@pytest.mark.parametrize("law", ["tanh", "decoupled"])
@pytest.mark.parametrize(
    ("file", "run"), [("one_outlier", "int4-100M-25"), ("one_row_in_millions", "int3-300M-25"), ("plain", None)]
)
def test_known_tables(file, run, law):
    found = outliers(fit(read(CASES / f"{file}.csv", strict=False), LAWS[law]))
    assert names(found) == ({run} if run else set())
    assert found.rho["int4"] == pytest.approx(0.8196, abs=0.02)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A table of which one loss is seven nats too high."""
    import pandas as pd

    path = tmp_path_factory.mktemp("table") / "runs.csv"
    pd.DataFrame(changed(records(), row20=7.0)).to_csv(path, index=False)
    return str(path)


COMMANDS = {
    "fit": ["--bootstrap", "20"],
    "predict": ["--weights", "int3", "--draws", "20"],
    "plan": ["--memory", "1e9", "--tokens", "1e10", "--formats", "dense", "int4", "--draws", "20"],
    "bench": ["--laws", "tanh"],
}


SLOWER = {"plan", "bench", "predict"}
"""Commands that say it by the function that another, quicker one says it by."""


@pytest.mark.parametrize("command", [pytest.param(c, marks=pytest.mark.ci if c in SLOWER else ()) for c in COMMANDS])
def test_every_command_names_them(command, file, capsys):
    assert main([command, file, "--keep-suspect", *COMMANDS[command]]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "int4-1e+08-25 (int4, N = 1e+08, D = 2.5e+09) pulls the" in printed
    assert main([command, file, "--keep-suspect", *COMMANDS[command], "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    told = content["tables"][0]["outlying"]["tanh"] if "tables" in content else content.get("fit", content)["outlying"]
    assert [r["run"] for r in told["rows"]] == ["int4-1e+08-25"]
    assert told["without"]["rho"]["int4"] == pytest.approx(rho_of("int4"), abs=0.02)


@pytest.mark.parametrize("far", [0, 1, 7, 60])
def test_a_search_of_many_rows_ends_at_the_same_ones_by_blocks_as_one_by_one(far, monkeypatch):
    random = np.random.default_rng(far)
    slope, off = random.normal(size=(3000, 5)), random.normal(size=3000)
    off[:far] += 20 * random.choice((-1.0, 1.0), far)
    inside = np.abs(off) <= np.sort(np.abs(off))[2000]
    outside, distance = search(slope, off, inside)
    monkeypatch.setattr(forward_search, "AT_A_TIME", 0.0)
    one_by_one, exact = search(slope, off, inside)
    np.testing.assert_array_equal(outside, one_by_one)
    assert outside.sum() == far
    np.testing.assert_allclose(distance, exact, rtol=1e-2, atol=1e-2)


def test_a_search_takes_steps_in_number_that_hardly_grows_with_the_rows(monkeypatch):
    """One by one 20,000 rows took four minutes."""
    steps, distances = [], forward_search._distances
    monkeypatch.setattr(forward_search, "_distances", lambda *a: steps.append(1) or distances(*a))
    random = np.random.default_rng(0)
    slope, off = random.normal(size=(9000, 2)), random.normal(size=9000)
    search(slope, off, np.abs(off) <= np.sort(np.abs(off))[6000])
    assert len(steps) < 150
