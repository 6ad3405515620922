"""How a sweep went: starts, what was done again, jumps of the loss, by its files alone."""

import json
import random

import pytest
from etils import epath
from support.watched import write_sweep

from capscale.cli import main
from capscale.sweep.history import read_history, totals
from capscale.sweep.jumps import spikes


@pytest.fixture
def histories(tmp_path):
    write_sweep(tmp_path, seeds=6)
    return {each.status.run_id: each for each in read_history(epath.Path(tmp_path))}


def test_status_names_runs_whose_loss_jumps(tmp_path, capsys):
    write_sweep(tmp_path, seeds=6)
    assert main(["status", str(tmp_path)]) == 0
    jumped = [line for line in capsys.readouterr().out.splitlines() if "loss jumps" in line]
    assert jumped
    assert all("; its loss jumps at step " in line for line in jumped)
    assert any(" running " in line and line.endswith("its loss jumps at step 400") for line in jumped)
    assert main(["status", str(tmp_path), "--json"]) == 0
    found = {run["state"]: run["spikes"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert found["running"] == [400]


def test_every_run_tells_how_it_went(histories):
    states = {each.status.state: each for each in histories.values()}
    assert set(states) == {"done", "running", "started", "failed", "to do", "diverged"}
    running = states["running"]
    assert (running.starts, running.again_device_s, running.steps, running.spikes) == (2, 14.5, 2000, [400])
    assert running.name.startswith(f"{running.size} int4 seed")
    assert running.tokens_per_s == pytest.approx(20 * 64 * 512 / 1.2, rel=0.06)
    assert running.said == "start 2 on tpu-7 from step 300, no end told"
    assert states["failed"].said.endswith(": XlaRuntimeError: RESOURCE_EXHAUSTED: <b>out of memory</b>")
    assert "stopped at step" in states["started"].said
    assert states["diverged"].curve[-1] == (900, None)
    nothing = states["to do"]
    assert (nothing.curve, nothing.tokens_per_s, nothing.starts, nothing.said) == ([], None, 0, "")


def test_totals_are_sums_over_the_runs(histories):
    found = totals(list(histories.values()))
    assert (found.runs, found.done, found.starts, found.retries) == (18, 6, 30, 15)
    assert found.again_h == pytest.approx(15 * 14.5 / 3600)
    assert found.goodput == pytest.approx(found.device_h / (found.device_h + found.again_h))
    speeds = [each.tokens_per_s for each in histories.values() if each.status.state == "running"]
    assert found.tokens_per_s == pytest.approx(sum(speeds))
    assert totals([]).goodput is None


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    runs = write_sweep(tmp_path)
    (tmp_path / "runs" / runs[0] / "run.json").write_text("{")
    (tmp_path / "runs" / runs[1] / "log-3.jsonl").write_text("\xff[]\n")
    (tmp_path / "runs" / runs[2] / "metrics.jsonl").unlink(missing_ok=True)
    assert len(read_history(epath.Path(tmp_path))) == len(runs)


def noisy(seed, steps=400, noise=0.03):
    chance = random.Random(seed)
    return [(step, 3 + 6 * 0.98**step + chance.gauss(0, noise)) for step in range(steps)]


def test_a_loss_that_falls_and_is_noisy_raises_no_alarm():
    assert [seed for seed in range(100) if spikes(noisy(seed))] == []


@pytest.mark.parametrize("at", [30, 200, 399])
def test_a_loss_that_jumps_is_told_once(at):
    curve = noisy(1)
    for step in range(at, min(at + 12, 400)):
        curve[step] = (step, curve[step][1] + 2.0)
    assert spikes(curve) == [at]


def test_what_is_no_loss_is_passed_over():
    curve = [(step, None if step % 7 == 0 else loss) for step, loss in noisy(2)]
    assert spikes(curve) == []
    assert spikes([(0, 3.0), (1, 30.0)]) == [], "too few lines to tell"


def test_lines_without_numbers_give_no_speed(tmp_path):
    runs = write_sweep(tmp_path)
    for run_id in runs:
        path = tmp_path / "runs" / run_id / "metrics.jsonl"
        if path.exists():
            path.write_text(json.dumps({"step": 20, "loss": "low", "seconds": 0}) + "\n")
    for each in read_history(epath.Path(tmp_path)):
        assert each.tokens_per_s is None
        assert all(loss is None for _, loss in each.curve)
