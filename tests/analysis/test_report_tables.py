"""There is a report for every table: what it carries is there and true, and what it does not has its reason."""

import csv
import json
import re

import numpy as np
import pytest
from support.synthetic import TRUTH, rho_of

from capscale.analysis.conditioning import residual_deviation
from capscale.analysis.fit import Constraints, Settings
from capscale.analysis.laws import LAWS
from capscale.analysis.report import write_report
from capscale.analysis.study import study
from capscale.analysis.table import make_table
from capscale.cli.analysis_tables import print_study
from capscale.errors import UserError

pytestmark = pytest.mark.ci

SIZES, RATIOS = (3e7, 1e8, 3e8, 1e9), (25.0, 50.0, 100.0, 200.0)
QUICK = Settings(starts=16)


def records(*names, sizes=SIZES, ratios=RATIOS, D=None, noise=0.003, **rho):
    """Runs of "w" or "w x a", at D/N of `ratios` or at one D."""
    random = np.random.default_rng(0)
    found = []
    for name in names:
        weights, _, activations = name.partition(" x ")
        capacity = rho.get(weights) or rho_of(weights) * rho_of(activations or "dense")
        for N in sizes:
            for d in [D] if D else [q * N for q in ratios]:
                loss = float(TRUTH.loss(N, d, capacity)) + random.normal(0, noise)
                row = {"run": f"{name} {N:g} {d:g}", "N": N, "D": d, "loss": loss, "weights": weights}
                found.append({**row, "activations": activations or "dense"})
    return found


class Told:
    """A study with all that its report says, in one text and as JSON."""

    def __init__(self, rows, directory, capsys, law="tanh"):
        self.study = study(make_table(rows, "made", strict=False), LAWS[law], QUICK, resamples=40)
        page = write_report(self.study, directory, "x")
        print_study(self.study)
        self.page = re.sub(r"base64,[^\"]*", "", page.read_text())
        self.text = " ".join((self.page + capsys.readouterr().out).split())
        self.json = json.loads((directory / "report.json").read_text(), parse_constant=pytest.fail)
        self.csv = list(csv.DictReader((directory / "capacities.csv").read_text().splitlines()))
        self.pictures = {p.stem for p in directory.glob("*.png")}
        assert not re.search(r"\b(nan|inf|None)\b", self.text)
        assert "In short" in self.text

    def rho(self, curve):
        (row,) = (c for c in self.study.capacities if c.curve == curve)
        assert row.is_measured
        return row.rho.estimate


@pytest.fixture
def told(tmp_path, capsys):
    return lambda rows, **how: Told(rows, tmp_path, capsys, **how)


def test_weights_and_activations_in_all_rows(told):
    found = told(records("dense", "int4 x int4", "int3 x int3", "int2 x int2"))
    assert found.rho("int4 x int4") == pytest.approx(rho_of("int4") ** 2, abs=0.02)
    assert found.pictures == {"loss", "agreement", "profiles"}
    assert not found.json["not_made"]


@pytest.mark.ci
def test_a_format_of_unknown_error_among_known_ones(told):
    found = told(records("dense", "int4", "int3", "int2", "mine", mine=0.6))
    assert found.rho("mine") == pytest.approx(0.6, abs=0.02)
    assert "mine" not in found.study.law.rho
    assert found.study.law.values["F"] == pytest.approx(0.41, abs=0.03)
    assert "mine: no GMSE is known, so no place in rank correlations, curves and the law of GMSE" in found.text


def test_all_formats_of_unknown_error(told):
    found = told(records("dense", "mine", "other", mine=0.6, other=0.5))
    assert found.rho("other") == pytest.approx(0.5, abs=0.02)
    assert found.study.law is found.study.free
    assert found.json["not_made"] == {
        "law of GMSE": "no compressed format has a known GMSE; give weights_gmse or activations_gmse"
    }
    assert "There is no law of GMSE here" in found.page
    assert [f["law"] for f in found.json["fits"]] == ["decoupled"]


@pytest.mark.ci
def test_no_dense_rows(told):
    found = told(records("int8", "int4", "int3", "int2"))
    assert found.study.unit == found.json["unit"] == "int8"
    assert {c.curve for c in found.study.capacities} == {"int4", "int3", "int2"}
    assert found.rho("int4") == pytest.approx(rho_of("int4") / rho_of("int8"), abs=0.02)
    assert "is worth a model in int8 of 45% of its size" in found.text
    assert "worth a dense model" not in found.text
    assert found.study.capacity_law is None
    assert found.study.across.verdict == "no unit"
    assert found.study.across.rank.estimate == pytest.approx(1.0)
    assert found.study.law.rho["int4"] == pytest.approx(rho_of("int4"), abs=0.02)


def test_no_dense_rows_of_formats_of_unknown_error_are_shares_of_the_best(told):
    found = told(records("apple", "pear", apple=0.4, pear=0.8))
    assert found.study.unit == "pear"
    assert found.rho("apple") == pytest.approx(0.5, abs=0.02)
    assert "could not be held against the runs" not in found.text


def test_dense_rows_only(told):
    found = told(records("dense"))
    assert found.study.law.law.name == "dense"
    assert found.study.law.values["alpha"] == pytest.approx(TRUTH.alpha, abs=0.03)
    assert found.pictures == {"loss", "profiles"}
    assert found.csv == []
    assert "rho" in (found.page and json.dumps(found.json["fits"]))
    assert found.json["not_made"]["measured capacity"].startswith("every run is dense")
    assert "the report is of the dense law: alpha is 0.3" in found.text
    assert "formats" not in found.page.split("What this does not show")[1].split("</ul>")[0]


def test_one_format(told):
    found = told(records("dense", "int4"))
    assert found.rho("int4") == pytest.approx(rho_of("int4"), abs=0.02)
    assert "No rank correlation for integer formats (1 measured)" in found.text


def test_one_size_measures_nothing(told):
    found = told(records("dense", "int4", "int3", "int2", sizes=(1e8,)))
    assert not any(c.is_measured for c in found.study.capacities)
    assert {row["why_not_measured"] for row in found.csv} == {
        "every run has N = 1e+08, so that no run says what another size would be worth"
    }
    for numbers in found.json["fits"]:
        assert {"A", "alpha", "E"} < set(numbers["not_told"])
        assert "beta" not in numbers["not_told"]
    assert '<td>alpha</td><td colspan="2">not measured: every run has N' in found.page
    assert "Exponents are of this table" not in found.text


def test_one_run_of_each_format_has_the_error_of_the_others(told):
    rows = records("dense") + [
        r for n, N in (("int4", 3e7), ("int2", 3e8)) for r in records(n, sizes=(N,), ratios=(50,))
    ]
    found = told(rows)
    assert found.rho("int4") == pytest.approx(rho_of("int4"), abs=0.05)
    one = found.study.measured.draws[:, found.study.measured.curves.index("int4")]
    error = residual_deviation(found.study.free)
    slope = TRUTH.alpha * TRUTH.A * (3e7 * rho_of("int4")) ** -TRUTH.alpha  # of the loss by log N rho
    assert np.std(np.log(one)) > 0.75 * error / slope


def test_a_dense_curve_that_rises(told):
    rows = records("dense", "int4", "int2", sizes=(1e7, 3e7, 1e8, 3e8, 1e9), D=8e9)
    rows[4]["loss"] += 0.5
    found = told(rows)
    assert found.study.measured.method == "joint fit"
    assert not found.study.equivalents
    assert (
        "the dense loss does not fall with size at D = 8e+09, where N = 1e+09: check the learning rates" in found.text
    )
    assert found.rho("int4") == pytest.approx(rho_of("int4"), abs=0.05)


def test_capacities_without_any_law(told):
    """Two runs of one format on a dense curve of four sizes, of hardly different D: too few for seven numbers."""
    rows = records("dense", sizes=(1e7, 3e7, 1e8, 3e8), D=8e9) + records("int4", sizes=(1e8, 2e8), D=8.01e9)
    found = told(rows)
    assert found.study.measured.method == "dense curve"
    assert found.rho("int4") == pytest.approx(rho_of("int4"), abs=0.05)
    assert found.study.law is None
    assert set(found.json["not_made"]) == {"law of GMSE", "law with a free capacity per format"}
    assert "There is no law of GMSE here: tanh has 7 free numbers and made 6 rows" in found.text
    assert found.json["fits"] == []
    assert "profiles" not in found.pictures


@pytest.mark.parametrize("design", [{"ratios": (100.0,)}, {"D": 8e9, "sizes": (1e7, 3e7, 1e8, 3e8, 1e9)}])
def test_one_ratio_and_one_number_of_tokens(told, design):
    found = told(records("dense", "int4", "int3", "int2", **design))
    assert "loss" in found.pictures
    assert len(found.study.capacities) == 3


def test_capacities_in_reverse_order_are_not_said_to_follow_the_error(told):
    found = told(records("dense", "int4", "int3", "int2", int4=0.3, int3=0.5, int2=0.8))
    assert "capacity rises with the error" in found.text
    assert "capacity falls as the error" not in found.text


def test_outlying_rows_are_on_the_page(told):
    rows = records("dense", "int4", "int3", "int2")
    rows[20]["loss"] += 3.0
    found = told(rows)
    assert f"the others follow: {rows[20]['run']};" in found.text
    assert found.page.count(f"<td>{rows[20]['run']}</td>") == 2  # under each of the two laws
    for law in ("tanh", "decoupled"):
        assert [r["run"] for r in found.json["outlying"][law]["rows"]] == [rows[20]["run"]]
        assert found.json["outlying"][law]["without"]["rho"]["int4"] == pytest.approx(rho_of("int4"), abs=0.02)


def test_nothing_at_all_is_refused():
    with pytest.raises(UserError, match="none is left to tell the error by"):
        study(make_table(records("dense", "int4", sizes=(1e8,), ratios=(50,)), "made", strict=False), resamples=20)


def test_what_was_asked_for_by_name_is_not_left_out():
    with pytest.raises(UserError, match="zeta"):
        study(make_table(records("dense", "int4"), "made"), settings=QUICK, constraints=Constraints({"zeta": 1.0}))
    rows = records("dense", sizes=(1e7, 3e7, 1e8, 3e8), D=8e9) + records("int4", sizes=(1e8, 2e8), D=8.01e9)
    few = make_table(rows, "made", strict=False)
    with pytest.raises(UserError, match="free numbers"):
        study(few, settings=QUICK, constraints=Constraints({"alpha": 0.3}))
