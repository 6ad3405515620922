"""A report shows what weights tell of themselves beside what Gaussian weights would: page, tables, JSON, terminal."""

import csv
import json
import math

import pytest
from support.synthetic import write_sweep

from capscale.analysis.rows import read
from capscale.analysis.study import study
from capscale.cli import main
from capscale.realised import COLUMNS

FROZEN = {"weights_realised_error": 0.15, "weights_realised_error_end": 0.079}
FROZEN |= {"weights_pass_rate": 0.21, "weights_pass_rate_end": 0.09, "weights_pass_rate_gaussian": 0.575}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Runs of int1 whose mask has closed, runs of int4 that are as Gaussian, and others of before the columns."""
    directory = write_sweep(tmp_path_factory.mktemp("sweep"))
    for path in directory.glob("runs/*/result.json"):
        result = json.loads(path.read_text())
        row = result["row"]
        if row["weights"] == "int1":
            row |= FROZEN
            row["weights_realised_error_end"] += 1e-9 * row["N"]  # differs by size, as it does
        if row["weights"] == "int4":
            row |= {"weights_realised_error_end": 0.0117, "weights_pass_rate_end": 0.99}
            row |= {"weights_pass_rate_gaussian": 0.993}
        if row["weights"] == "dense":
            row |= dict.fromkeys(FROZEN)
        path.write_text(json.dumps(result))
    return directory


def test_study_averages_what_the_runs_of_a_format_tell(sweep):
    found = {c.curve: c.weights for c in study(read(sweep), resamples=20).capacities}
    sizes = (2912, 5152, 11_584, 20_544)
    assert found["int1"].error_end == pytest.approx(0.079 + 1e-9 * sum(sizes) / 4)
    assert found["int1"].error == pytest.approx(0.15)
    assert (found["int1"].error_is_off, found["int1"].mask_is_off) == (True, True)
    assert (found["int4"].error_is_off, found["int4"].mask_is_off) == (False, False)
    assert math.isnan(found["int8"].error_end)
    assert found["int8"].gmse == pytest.approx(8.7686e-5, rel=1e-4)


@pytest.mark.ci
def test_report_shows_both_numbers_and_says_what_is_off(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # no cell is folded
    assert main(["report", str(sweep), "--out", str(tmp_path), "--bootstrap", "20"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "GMSE is not what these weights feel: at the end of training they realise int1 0.079 for 0.36" in printed
    assert "99% / 99%" in printed
    assert "9% / 57%" in printed
    assert "nan" not in printed.replace("nano", "")

    page = (tmp_path / "report.html").read_text()
    assert "GMSE is not what these weights feel" in page
    (int1,) = [line for line in page.splitlines() if "<td>int1</td>" in line and "%" in line]
    assert "<td>0.07901 ‡</td><td>9% ‡</td><td>57%</td>" in int1
    (int4,) = [line for line in page.splitlines() if "<td>int4</td>" in line and "%" in line]
    assert "<td>0.0117</td><td>99%</td><td>99%</td>" in int4
    assert "by a factor above 1.3 in error" in page

    capacities = {row["format"]: row for row in csv.DictReader((tmp_path / "capacities.csv").read_text().splitlines())}
    assert float(capacities["int1"]["weights_realised_error"]) == pytest.approx(0.15)
    assert float(capacities["int1"]["weights_pass_rate_gaussian"]) == 0.575
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    (of_int8,) = [each for each in content["capacities"] if each["format"] == "int8"]
    assert [of_int8[name] for name in COLUMNS[1:]] == [None] * 5
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert {row["weights_pass_rate_end"] for row in rows if row["weights"] == "int1"} == {"0.09"}
    again = read(tmp_path / "rows.csv")
    assert again.sha256 == read(sweep).sha256 != ""
    assert again.first_of_curve["int1"].weights_pass_rate_end == 0.09
