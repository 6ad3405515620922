import json
import re

import pytest
import tyro
from support.synthetic import NANO, write_sweep

from capscale.analysis.rows import read
from capscale.analysis.sentences import summary
from capscale.analysis.sentences.quotable import ratio_words
from capscale.analysis.sentences.rule import say
from capscale.analysis.study import study
from capscale.cli import analysis, bench, factorizing, planning
from capscale.errors import UserError

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("sweep"), missing=1)


@pytest.fixture(scope="module")
def result(sweep):
    return study(read(sweep), resamples=200)


def test_capacities_are_the_true_ones(result):
    truth = {"int8": 0.989, "int4": 0.820, "top50": 0.553, "int2": 0.444, "2:4": 0.420, "top75": 0.244, "int1": 0.180}
    found = {c.curve: c for c in result.capacities}
    for name, rho in truth.items():
        assert found[name].rho.estimate == pytest.approx(rho, abs=0.04)
        assert found[name].law == pytest.approx(rho, abs=0.04)
    assert result.across.rank.estimate == pytest.approx(1.0)
    assert {k.name: k.rank.estimate for k in result.kinds} == {"integer": pytest.approx(1), "sparse": pytest.approx(1)}
    assert result.measured.method == "dense curve"


def test_the_other_estimator_is_measured_and_not_fitted(result):
    mask = next(c for c in result.capacities if c.curve == "top50 [fw]")
    assert not mask.in_law
    assert mask.rho.estimate == pytest.approx(0.7, abs=0.05)
    assert mask.law == pytest.approx(0.553, abs=0.04)
    assert mask.curve not in result.law.rho


def test_near_tie_is_named(tmp_path, result):
    assert not result.ties
    noisy = study(read(write_sweep(tmp_path, noise=0.03)), resamples=200)
    assert any({t.first, t.second} == {"int2", "2:4"} for t in noisy.ties)
    assert any(s.rule == "near-tie" for s in say(summary.RULES, noisy))


def test_joint_fit_does_not_hang_on_E(result):
    for c in result.capacities:
        assert c.over_E[1] - c.over_E[0] < 0.05
    assert ratio_words(result.free).startswith("D/N runs from")
    assert result.free.values["alpha"] == pytest.approx(NANO.alpha, abs=0.08)


def test_report_is_self_contained_and_complete(sweep, tmp_path, capsys):
    report = tyro.cli(analysis.Report, args=[str(sweep), "--out", str(tmp_path / "out"), "--bootstrap", "100"])
    assert report() == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page).replace("http-equiv", "")
    for wanted in (
        "ab" * 32,
        "capscale sweep capacity_demo",
        "cannot be told from E",
        "top50 [fw]",
        "missing",
        "185 s",
    ):
        assert wanted in page, wanted
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(content["capacities"]) == 8
    assert [k["kind"] for k in content["kinds"]] == ["integer", "sparse"]
    assert content["across_kinds"]["verdict"] in ("holds", "open")
    assert content["provenance"]["text"].endswith("ab" * 32)
    for name in ("capacity.png", "loss.png", "agreement.png", "profiles.png", "capacities.csv", "rows.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 200
    assert "report.html" in capsys.readouterr().out


def test_report_survives_diverged_runs(tmp_path):
    directory = write_sweep(tmp_path, diverged=3, missing=2)
    found = study(read(directory), resamples=50)
    assert sum("diverged" in r.what for r in found.table.remarks) == 3
    assert found.capacities


def test_report_refuses_what_it_cannot_write(sweep, tmp_path):
    (tmp_path / "file").touch()
    report = tyro.cli(analysis.Report, args=[str(sweep), "--out", str(tmp_path / "file" / "x"), "--bootstrap", "20"])
    with pytest.raises(UserError, match="cannot be written"):
        report()


def test_fit_prints_json_only(sweep, capsys):
    command = tyro.cli(analysis.Fit, args=[str(sweep), "--fix", "E=0.4", "--bootstrap", "50", "--json"])
    assert command() == 0
    content = json.loads(capsys.readouterr().out)
    assert content["values"]["E"] == pytest.approx(0.4)
    assert set(content["profiles"]) == {"alpha", "F", "C"}
    assert content["sha256"]


@pytest.mark.parametrize("arguments", [["--fix", "alpha"], ["--prior", "alpha=1"], ["--fix", "zeta=1"]])
def test_fit_refuses_bad_numbers(sweep, arguments):
    with pytest.raises(UserError, match=r"alpha|zeta"):
        tyro.cli(analysis.Fit, args=[str(sweep), *arguments])()


@pytest.mark.ci
def test_predict_plan_factorize_bench(sweep, tmp_path, capsys):
    runs = [
        (planning.Predict, [str(sweep), "--weights", "int3", "--draws", "50", "--json"]),
        (planning.Plan, [str(sweep), "--memory", "1e4", "--tokens", "2048000", "--draws", "50", "--json"]),
        (factorizing.Factorize, ["--out", str(tmp_path / "f"), "--json"]),
        (bench.Bench, [str(sweep), "--laws", "tanh", "kumar", "--out", str(tmp_path / "b"), "--json"]),
    ]
    for command, arguments in runs:
        assert tyro.cli(command, args=arguments)() == 0
        assert json.loads(capsys.readouterr().out)
    assert len(list((tmp_path / "f").glob("*.png"))) == 8
    for name in ("index.html", "bench.json", "bench.csv", "bench.png"):
        assert (tmp_path / "b" / name).exists()


@pytest.mark.ci
def test_report_has_the_bench(sweep, tmp_path, capsys):
    command = tyro.cli(analysis.Report, args=[str(sweep), "--bootstrap", "20", "--bench", "--out", str(tmp_path)])
    assert command() == 0
    bench = json.loads((tmp_path / "report.json").read_text())["bench"]
    assert {line["law"] for line in bench["laws"]} >= {"tanh", "decoupled-coupled", "ensemble (4 laws)"}
    assert "sparsity" in bench["left_out"]["frantar"]
    page = (tmp_path / "report.html").read_text()
    assert (tmp_path / "bench.png").exists()
    for line in bench["laws"]:
        assert f"<td>{line['rmse_N']:.3g}</td>" in page
