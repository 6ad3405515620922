"""Commands that are given numbers say whether the runs deny them, and which number pulls."""

import json

import pandas as pd
import pytest
import tyro
from support.synthetic import NANO, rho_of, runs

from capscale.cli import analysis, bench, planning

pytestmark = pytest.mark.ci

COMMANDS = {
    "fit": (analysis.Fit, ["--starts", "16", "--bootstrap", "20"]),
    "predict": (planning.Predict, ["--weights", "int3", "--draws", "20"]),
    "plan": (planning.Plan, ["--memory", "1e4", "--tokens", "2e6", "--draws", "20"]),
    "bench": (bench.Bench, ["--laws", "tanh"]),
    "report": (analysis.Report, ["--bootstrap", "20"]),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "runs.csv"
    pd.DataFrame(runs({n: rho_of(n) for n in ("int1", "int2", "int4", "int8")})).to_csv(path, index=False)
    return str(path)


def said(command, file, capsys, tmp_path, *given):
    kind, arguments = COMMANDS[command]
    out = ["--out", str(tmp_path)] if command == "report" else []
    assert tyro.cli(kind, args=[file, *arguments, *out, *given])() == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_the_runs_deny(command, file, capsys, tmp_path):
    text = said(command, file, capsys, tmp_path, "--fix", "alpha=0.05", "F=0.41")
    assert "the runs contradict what was given: RMSE" in text
    assert "alpha pulls: freed alone, alpha goes to 0.2" in text


@pytest.mark.ci
@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_that_they_do_not_deny(command, file, capsys, tmp_path):
    text = said(command, file, capsys, tmp_path, "--fix", f"alpha={NANO.alpha}")
    assert "the runs do not contradict what was given" in text
    assert "pull" not in text
    assert "contradict" not in said(command, file, capsys, tmp_path)


@pytest.mark.parametrize("command", ["fit", "predict", "plan", "report"])
def test_json_has_the_comparison(command, file, capsys, tmp_path):
    kind, arguments = COMMANDS[command]
    out = ["--out", str(tmp_path)] if command == "report" else []
    given = ["--prior", "alpha=0.05:0.001", "--json"]
    assert tyro.cli(kind, args=[file, *arguments, *out, *given])() == 0
    content = json.loads(capsys.readouterr().out)
    found = content.get("fit", content)["against_free_fit"]
    assert found["contradicted"]
    assert found["ratio"] > found["limit"] > 1
    assert found["freed_alone"][0]["name"] == "alpha"
