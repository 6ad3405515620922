"""`capscale import` shows and writes what was understood; all commands that read a table have its flags."""

import json

import pandas as pd
import pytest
from support.synthetic import well_spread

from capscale.analysis.rows import read
from capscale.cli import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    frame = well_spread(36, 0.003, 0, ("dense", "int4", "int2")).rename(columns={"N": "params", "loss": "nll_x"})
    frame = frame.replace({"weights": {"int4": "4bit", "dense": "BF16"}}).assign(family="llama", optimizer="adam")
    other = frame.assign(family="olmo", nll_x=frame.nll_x + 0.3)
    frame = frame.drop(columns="activations")
    both = pd.concat([frame, other.drop(columns="activations")])
    both.to_csv(tmp_path / "runs.csv", sep=";", decimal=",", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FLAGS = ["--map", "loss=nll_x", "--fill", "activations=dense", "--replace", "4bit=int4", "--where", "family=llama"]


def test_is_written_and_reads_back(place, capsys):
    assert main(["import", "runs.csv", *FLAGS, "--out", "made/out.csv"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "runs.csv: 36 rows", "column 'params': read as N", "4bit is int4; int2", "family=llama: 36 of 72 rows",
        "--fill activations=dense: of all 36 rows", "optimizer: not read", "cells are told apart by semicolons",
    ):  # fmt: skip
        assert said.replace("; int2", "") in shown
    assert main(["import", "runs.csv", *FLAGS, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    again = read(place / "made" / "out.csv")
    assert told["sha256"] == again.sha256
    assert told["formats"] == {"dense": 12, "int4": 12, "int2": 12}
    assert told["ignored"] == ["optimizer"]
    assert not again.remarks


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("loss=nll_x", "no column ['loss']"),
        ("activations=dense", "no column ['activations']"),
        ("4bit=int4", "'4bit' does not say which format"),
        ("family=llama", "column 'family' tells apart runs"),
    ],
)
@pytest.mark.parametrize("command", ["import", "fit", "report", "bench", "predict", "plan", "factorize"])
def test_every_command_asks_what_it_is_not_told(command, left_out, message, place, capsys):
    i = FLAGS.index(left_out)
    budget = ["--flops", "1e20"] if command == "plan" else []
    assert main([command, "runs.csv", *FLAGS[: i - 1], *FLAGS[i + 1 :], *budget]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("capscale: ")
    assert out == ""


def test_remarks_are_shown_by_a_command_that_fits(place, capsys):
    assert main(["fit", "runs.csv", *FLAGS, "--bootstrap", "4", "--starts", "4"]) == 0
    assert "read as N" in capsys.readouterr().out


def test_out_is_a_csv(place, capsys):
    assert main(["import", "runs.csv", *FLAGS, "--out", "out.json"]) == 2
    assert "is written as .csv" in capsys.readouterr().err
