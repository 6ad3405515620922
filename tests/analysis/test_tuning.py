"""Sweeps with several learning rates: the best of each size, D and format stands for it."""

import json

import pytest
from support.synthetic import runs, write_sweep

from capscale.analysis.rows import read
from capscale.analysis.table import make_table
from capscale.cli import main
from capscale.errors import UserError

RHO = {"int4": 0.9, "int2": 0.5}


def tuned(*, seeds=(0,), column="learning_rate", best=0.02, cost=0.05, extra=()):
    """Rows of every rate and seed, a nat's twentieth worse at a rate that is no best one."""
    rows = []
    for row in runs(RHO, noise=0.0):
        for rate in (0.01, 0.02, 0.04):
            for seed in seeds:
                loss = row["loss"] + cost * (rate != best) + 0.001 * seed
                rows.append(row | {"loss": loss, "seed": seed, column: rate, "run": f"{row['run']} {rate} {seed}"})
    return [*rows, *extra]


@pytest.mark.parametrize("column", ["learning_rate", "lr"])
def test_the_best_rate_of_every_cell_is_kept_and_said(column):
    table = make_table(tuned(seeds=(0, 1), column=column), "x")
    cells = {(r.curve, r.N, r.D) for r in table.rows}
    assert len(table) == 2 * len(cells) == 28
    assert {r.extra[column] for r in table.rows} == {0.02}
    said = [r.what for r in table.remarks if "learning rates" in r.what]
    assert len(said) == len(cells)
    assert said[0].startswith("set aside: 4 runs at other learning rates than the best, 0.02; mean losses: ")
    assert said[0].endswith(f"--where {column}=RATE keeps those of one rate")
    one_rate = make_table([r for r in tuned(seeds=(0, 1), column=column) if r[column] == 0.02], "x")
    assert table.sha256 == one_rate.sha256
    assert not one_rate.remarks


def test_rates_are_compared_over_the_seeds_that_they_share():
    """A lucky third seed at another rate is no better rate; without seeds in common every run counts."""
    lucky = runs(RHO, noise=0.0)[-1]
    extra = [lucky | {"loss": lucky["loss"] - 1.0, "seed": 7, "learning_rate": 0.04, "run": "lucky"}]
    table = make_table(tuned(extra=extra), "x", strict=False)
    assert {r.extra["learning_rate"] for r in table.rows} == {0.02}
    apart = [r | {"seed": r["learning_rate"] * 100} for r in tuned()]
    assert {r.extra["learning_rate"] for r in make_table(apart, "x").rows} == {0.02}


def test_of_equal_rates_the_lower_one_and_one_rate_is_as_it_was():
    assert {r.extra["learning_rate"] for r in make_table(tuned(cost=0.0), "x").rows} == {0.01}
    twice = [r for r in tuned() if r["learning_rate"] == 0.02]
    with pytest.raises(UserError, match="one run, several losses"):
        make_table([*twice, twice[0] | {"loss": twice[0]["loss"] + 0.3}], "x")


@pytest.mark.ci
def test_a_report_of_a_tuned_sweep(tmp_path, capsys):
    """The whole command on a folder whose runs differ in their rates: no word of several losses of one run."""
    sweep = write_sweep(tmp_path / "sweep")
    listing = json.loads((sweep / "sweep.json").read_text())
    for run_id in [*listing["runs"]]:
        result = json.loads((sweep / "runs" / run_id / "result.json").read_text())
        result["row"] |= {"loss": result["row"]["loss"] + 0.1, "learning_rate": 0.03}
        result["run_id"] = f"{run_id}-other"
        (sweep / "runs" / result["run_id"]).mkdir()
        (sweep / "runs" / result["run_id"] / "result.json").write_text(json.dumps(result))
        listing["runs"].append(result["run_id"])
    (sweep / "sweep.json").write_text(json.dumps(listing))
    assert len(read(sweep)) == len(listing["runs"]) / 2
    assert main(["fit", str(sweep), "--form", "decoupled", "--starts", "4", "--bootstrap", "20"]) == 0
    assert "1 run at other learning rates than the best, 0.01" in " ".join(capsys.readouterr().out.split())
