"""Names in a table are data: no formula, no markup, no character of theirs does anything but stand there."""

import csv
import io
import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.synthetic import write_sweep

from capscale.analysis.labels import LONGEST, as_label
from capscale.analysis.report import csv_bytes
from capscale.analysis.rows import read
from capscale.cli import main

pytestmark = pytest.mark.ci

NAMES = {
    "int1": "$x_{$",
    "int2": "a$b$c",
    "int3": "_hidden",
    "int4": "=1+1",
    "int8": "[/b]",
    "2:4": "\u4e2d\u6587",
    "top50": "\x1b[2J\n\\",
    "top75": "@" + "long" * 50,
}


@pytest.fixture
def table(tmp_path):
    """A table of formats whose names are the users' own."""
    sweep = read(write_sweep(tmp_path / "sweep"))
    rows = [row._asdict() | {"weights": NAMES.get(row.weights, row.weights)} for row in sweep.rows if row.is_plain]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([{k: v for k, v in row.items() if k != "curve"} for row in rows]))  # NaN reads as NaN
    return path


def test_a_report_shows_them_as_they_are(table, tmp_path, capsys):
    assert main(["report", str(table), "--bootstrap", "20", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "[/b]" in out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "\u4e2d\u6587" in page
    assert "a$b$c" in page
    again = read(tmp_path / "out" / "rows.csv")
    assert again.curves == read(table).curves, "a table that was written reads back"
    for name in ("rows.csv", "capacities.csv"):
        cells = [cell for row in csv.reader(io.StringIO((tmp_path / "out" / name).read_text())) for cell in row]
        words = [cell for cell in cells if cell[:1] in ("=", "+", "-", "@")]
        assert all(np.isfinite(float(word)) for word in words)
        assert "'=1+1" in cells


def test_a_prediction_of_one_shows_it_as_it_is(table, capsys):
    assert main(["predict", str(table), "--weights", "[/b]", "--weights-gmse", "0.1", "--draws", "20"]) == 0
    assert "[/b] at N" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES.values())
def test_a_label_is_drawn_without_a_formula_or_a_warning(name):
    figure = Figure()
    axes = figure.add_subplot()
    (line,) = axes.plot([0, 1], label=as_label(name))
    axes.legend()
    axes.set_title(as_label(name))
    figure.draw_without_rendering()
    assert axes.get_legend_handles_labels()[0] == [line]
    assert len(as_label(name)) < 6 * LONGEST


def test_labels_keep_what_the_font_has():
    assert as_label("int4 x \u03c1 \u00e9") == "int4 x \u03c1 \u00e9"
    assert as_label("\u4e2d") == r"\u4e2d"
    assert as_label("$") == r"\$"


def test_a_name_of_a_whole_file_is_refused_by_its_row(table, capsys):
    rows = json.loads(table.read_text())
    rows[3]["weights"] = "long" * 1000
    table.write_text(json.dumps(rows))
    assert main(["fit", str(table)]) == 2
    err = capsys.readouterr().err
    assert f"runs.json: {rows[3]['run']}: weights: a name of 4,000 characters, 'longlong" in err
    assert len(err) < 300


def test_numbers_of_a_csv_are_numbers():
    assert csv_bytes([{"a": -1.5, "b": "-x", "c": "x-", "d": "\t=1"}]) == b"a,b,c,d\n-1.5,'-x,x-,'\t=1\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--N=0"], "N must be finite and positive"),
        (["--D=nan"], "D must be finite and positive"),
        (["--weights-gmse=inf"], "weights_gmse=inf must be finite"),
        (["--weights-gmse=-1"], "weights_gmse=-1 must be at least 0"),
        (["--draws=99999999999"], "draws=99999999999: at least 20 and at most 100,000 draws"),
    ],
)
def test_numbers_of_a_prediction_are_checked(flags, message, table, capsys):
    assert main(["predict", str(table), "--weights", "int3", *["--draws=20"][: "--draws" not in flags[0]], *flags]) == 2
    assert message in capsys.readouterr().err
