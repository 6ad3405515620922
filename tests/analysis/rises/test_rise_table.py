"""Tables of rises as they are read: kinds, bits, cells, and what is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import rises as made

from capscale.analysis.rises.claims import judged
from capscale.analysis.rises.fit import fit_rises
from capscale.analysis.rises.forms import FORMS, GMSE, POWER
from capscale.analysis.rises.held_out import trials
from capscale.analysis.rises.table import read_rises
from capscale.cli import main
from capscale.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def test_rows_say_what_they_are_of(tmp_path):
    rises = made.table(tmp_path, formats=("int4", "2:4", "e2m1", "higgs-d2-n16"))
    assert len(rises.rise) == 4 * 4 * 2 * 4
    kinds = dict(zip(rises.weights, rises.kind, strict=True))
    assert kinds == {"int4": "integer", "2:4": "sparse", "e2m1": "float", "higgs-d2-n16": "vector"}
    bits = dict(zip(rises.weights, rises.bits, strict=True))
    assert (bits["int4"], bits["e2m1"]) == (4, 4)
    assert np.isnan(bits["2:4"])
    assert len(np.unique(rises.cell)) == 16
    assert rises.only(rises.quantized).kind.count("sparse") == 0


def test_runs_that_were_trained_in_a_format_are_left_out(tmp_path):
    rows = made.records(tokens=(1e5, 1e6), seeds=(0,))
    run = rows[0]["run"]
    rows[0] |= {"weights": "int8", "gmse": 8.8e-5}
    rises = read_rises([made.write(tmp_path / "rounded.csv", rows)])
    assert run not in rises.run
    assert rises.remarks == (f"{run}: trained in a format, left out; laws of rises are of dense runs",)


def test_rows_that_round_more_than_weights_are_left_out(tmp_path):
    rows = [row | {"activations": "dense", "cache": "dense", "policy": ""} for row in made.records(tokens=(1e5, 1e6))]
    plain = read_rises([made.write(tmp_path / "plain.csv", rows)])
    more = [
        rows[0] | {"weights": "int8", "gmse": 8.8e-5, "cache": "int4"},
        rows[0] | {"weights": "mixed", "policy": "x"},
    ]
    found = read_rises([made.write(tmp_path / "more.csv", [rows[0], *more, *rows[1:]])])
    np.testing.assert_array_equal(found.rise, plain.rise)
    assert found.remarks == ("2 rows that round layers apart, inputs or the cache, left out",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [{k: v for k, v in row.items() if k != "rise_se"} for row in rows], "no column rise_se"),
        (lambda rows: rows[1:], "is not the run as it was trained"),
        (lambda rows: [*rows, rows[-1]], "is rounded to .* twice"),
        (lambda rows: [row | {"rise": "nan"} for row in rows], "rise of .* is "),
        (lambda rows: [row | {"N": 0} for row in rows], "N must be positive"),
        (lambda rows: [row | ({"rise_se": -1} if row["rise"] else {}) for row in rows], "rise_se is negative"),
        (lambda rows: [row for row in rows if row["weights"] == "dense"], "no dense run that was rounded"),
    ],
)
def test_what_is_no_such_table_is_refused(change, says, tmp_path):
    rows = made.records(tokens=(1e5,), seeds=(0,))
    with pytest.raises(UserError, match=says):
        read_rises([made.write(tmp_path / "rounded.csv", change(rows))])
    with pytest.raises(UserError, match="no such file"):
        read_rises([tmp_path / "none.csv"])


@pytest.mark.ci
def test_the_command(tmp_path, capsys):
    path = made.write(tmp_path / "rounded.csv", made.records(seeds=(0,)))
    assert main(["post-training", str(path), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "k D^b N^-a GMSE" in out
    assert "predicts worse" in out
    assert "Low bits favour undertrained models" in out
    content = json.loads((tmp_path / "out" / "post-training.json").read_text())
    law = content["laws"][0]
    assert law["numbers"]["b"]["low"] < 0.6 < law["numbers"]["b"]["high"]
    assert {trial["about"] for trial in content["held_out"]} == {"quantized formats", "all formats"}
    assert (tmp_path / "out" / "post-training.png").stat().st_size > 10_000

    one = made.write(tmp_path / "one.csv", made.records(tokens=(1e6,), seeds=(0,)))
    assert main(["post-training", str(one)]) == 0
    assert "All runs have one D" in capsys.readouterr().out
    assert main(["post-training"]) == 2
    assert "name tables of `capscale quantize" in capsys.readouterr().err


def test_the_page_of_laws_has_every_law_of_rises():
    lines = (ROOT / "docs" / "laws.md").read_text().splitlines()
    cells = [line for line in lines[lines.index("## Laws of rises") :] if line.startswith("| ")]
    for form in FORMS:
        about = "quantized formats" if form.of_bits else "all formats"
        assert f"| {form.name} | {form.formula} | {about} | {form.source} |" in cells


@pytest.mark.ci
def test_committed_rises_say_what_the_text_beside_them_says():
    rises = read_rises([ROOT / "experiments" / "results" / "post_training-nano.csv"])
    assert (len(rises.rise), len(set(rises.run)), len(set(rises.weights))) == (680, 40, 17)
    fits = [fit_rises(form, rises) for form in (GMSE, POWER)]
    found = {j.claim.name: (j.estimate.value, j.verdict) for j in judged(fits, {})}
    assert {verdict for _, verdict in found.values()} == {"reproduced"}
    values = {name: value for name, (value, _) in found.items()}
    expected = {"proportional": 1.06, "one-slope": 0.086, "undertrained": 0.87, "larger": 0.17}
    assert values == pytest.approx(expected, abs=0.006)
    text = (ROOT / "experiments" / "results" / "README.md").read_text()
    assert "| The rise is in proportion to GMSE: its exponent | 1.06 |" in text
    quantized, every = trials(rises)
    assert [(law.form.name, law.told) for law in quantized.laws[-2:]] == [("kumar", True), ("qid", True)]
    assert {law.form.name for law in every.laws} == {"gmse", "gmse-power", "realised"}


@pytest.mark.ci
def test_committed_rises_at_micro_say_what_the_text_beside_them_says():
    rises = read_rises([ROOT / "experiments" / "results" / "post_training-micro.csv"])
    assert (len(rises.rise), len(set(rises.run)), len(set(rises.weights))) == (54, 9, 6)
    found = {j.claim.name: j for j in judged([fit_rises(form, rises) for form in (GMSE, POWER)], {})}
    assert [name for name, j in found.items() if j.verdict == "reproduced"] == ["undertrained"]
    text = (ROOT / "experiments" / "results" / "README.md").read_text()
    rows = {"proportional": "its exponent", "undertrained": "exponent of D", "larger": "exponent a of N^-a"}
    for name, words in rows.items():
        j = found[name]
        (row,) = [
            line
            for line in text.split("## post_training-micro.csv")[1].split("\n## ")[0].splitlines()
            if f"{words} |" in line
        ]
        value, ends, verdict = (cell.strip() for cell in row.split("|")[2:5])
        assert float(value) == pytest.approx(j.estimate.value, abs=0.006)
        assert [float(end) for end in ends.split(" to ")] == pytest.approx([j.estimate.low, j.estimate.high], abs=0.006)
        assert verdict.startswith(j.verdict)
