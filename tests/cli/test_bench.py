"""The bench command: tables, laws and cut-offs as they are asked for, and words for what cannot be."""

import json

import pandas as pd
import pytest
from support.synthetic import TRUTH, rho_of, runs

from capscale.cli import main

pytestmark = pytest.mark.ci

SIZES = (3e7, 1e8, 3e8, 1e9)
LAW = """
from dataclasses import replace

from capscale.analysis.laws import LAWS

MINE = replace(LAWS["tanh"], name="mine")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two tables: formats of the catalog, and one whose GMSE is not known."""
    directory = tmp_path_factory.mktemp("bench")
    known = {"int2": rho_of("int2"), "int4": rho_of("int4")}
    for name, rho in (("known", known), ("unknown", {"int4": 0.8, "our-format": 0.4})):
        made = runs(rho, sizes=SIZES, tokens=(2e9, 8e9, 3e10), law=TRUTH)
        pd.DataFrame(made).to_csv(directory / f"{name}.csv", index=False)
    (directory / "mine.py").write_text(LAW)
    return directory


def content(capsys, *arguments):
    assert main(["bench", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.ci
def test_tables_that_carry_some_laws(files, capsys):
    known, unknown = str(files / "known.csv"), str(files / "unknown.csv")
    told = content(capsys, known, unknown, "--laws", "tanh", "decoupled", "frantar")
    assert [t["table"] for t in told["tables"]] == [known, unknown]
    standing = {s["law"]: s for s in told["leaderboard"]}
    assert standing["tanh"]["not_fitted_on"] == [unknown]
    assert standing["tanh"]["ranks"][unknown]["N"] == 3 == len(told["leaderboard"])
    assert "frantar" not in standing
    assert "weights_gmse" in told["tables"][1]["left_out"]["tanh"]
    means = [s["mean_rank"] for s in told["leaderboard"]]
    assert means == sorted(means)


def test_cut_offs_and_a_law_of_a_file(files, capsys):
    asked = ["--laws", files / "mine.py", "--cuts-N", "1e8", "--cuts-D", "1", "D/N=30"]
    (table,) = content(capsys, files / "known.csv", *asked)["tables"]
    assert [(c["axis"], c["cut"]) for c in table["cuts"]] == [
        ("N", "N <= 1e+08"), ("D", "D/N <= 30"), ("D", "without the longest 1 of each size"),
    ]  # fmt: skip
    assert [c["held_out"] for c in table["cuts"]][::2] == [18, 12]
    line = next(line for line in table["laws"] if line["law"] == "mine")
    assert (line["runs"], line["numbers"]) == (36, 7)


def test_out_has_a_page_that_is_printed(files, tmp_path, capsys):
    assert main(["bench", str(files / "known.csv"), "--laws", "tanh", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Which law predicts" in (tmp_path / "out" / "index.html").read_text()
    assert "index.html" in printed
    assert "1 the best" in printed


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "no table to compare laws on"),
        (["known.csv", "known.csv"], "given twice"),
        (["known.csv", "--laws", "tahn"], "did you mean tanh"),
        (["known.csv", "--cuts-N", "1e6"], "known.csv has N 3e+07 to 1e+09, D/N 2 to 1000; choose --cuts-N"),
        (["known.csv", "--cuts-D", "half"], "--cuts-D 'half'"),
        (["unknown.csv", "--laws", "tanh", "frantar"], "no law can be fitted: tanh: "),
    ],
)
def test_what_cannot_be_is_refused_in_words(files, capsys, arguments, wanted):
    paths = [str(files / a) if a.endswith(".csv") else a for a in arguments]
    assert main(["bench", *paths]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert wanted in said.replace(f"{files}/", "")
    assert "Traceback" not in said
