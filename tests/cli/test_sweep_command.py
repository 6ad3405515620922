"""`capscale sweep`, `run` and `status` as processes: killed, stopped, started again, and given what they cannot use."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tiny
from support.limits import LIMIT_S

from capscale.cli import main
from capscale.train.loop import LoopIntervals

TESTS = Path(tiny.__file__).parents[1]
STEPS = 60
ALARM = re.compile(r"E\d{4} [^\n]*slow_operation_alarm.*?\*{20,}\n.*?\*{20,}\n", re.DOTALL)
"""XLA's warning where compiling takes over two minutes, as it does on a machine with ten times more to do than it has
cores."""
EXPERIMENT = f"""
from support import tiny
from capscale.train.loop import LoopIntervals
# Metrics and a checkpoint every few steps, and steps slow enough to be killed in their midst.
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(3, 0.0, background))

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, tokens={STEPS} * 64) for seed in range(2)]
"""


@pytest.fixture
def place(tmp_path):
    """A folder with an experiment and a text."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    return tmp_path


def started(place, *arguments):
    command = [sys.executable, "-c", "import sys; from capscale.cli import main; sys.exit(main())", *arguments]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    # Compiled soon rather than well, all processes alike.
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    return subprocess.Popen(command, cwd=place, env=environment, stdout=-1, stderr=-1, text=True)


def finished(process):
    out, err = process.communicate(timeout=LIMIT_S)
    assert "Traceback" not in err
    return process.returncode, out, ALARM.sub("", err)


def sweep(place, *more):
    return started(place, "sweep", "mine.py", "--text", "text.txt", "--jobs", "1", *more)


def rows(out):
    return {path.parent.name: json.loads(path.read_text())["row"] for path in out.glob("runs/*/result.json")}


def wait_for(process, out, lines, seconds=200):
    """Until a run that has no result yet has as many lines of metrics."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        for path in out.glob("runs/*/metrics.jsonl"):
            if path.read_text().count("\n") >= lines and not (path.parent / "result.json").exists():
                return
        time.sleep(0.005)
    late = process.poll() is None
    process.kill()
    why = f"did not get there in {seconds} s" if late else "ended before it could be disturbed"
    raise AssertionError(f"the sweep {why}: {process.communicate(timeout=LIMIT_S)}")


def test_a_sweep_that_does_not_get_there_is_ended(tmp_path):
    with subprocess.Popen(["sleep", "100"], stdout=-1, stderr=-1) as process:
        with pytest.raises(AssertionError, match=r"the sweep did not get there in 0.1 s"):
            wait_for(process, tmp_path, lines=1, seconds=0.1)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.ci
def test_killed_or_stopped_sweep_goes_on_to_the_same_rows(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr(LoopIntervals, "of", LoopIntervals.of)  # the experiment changes it
    status, text, err = finished(sweep(place, "--out", "calm"))
    assert (status, err) == (0, "")
    assert "2 of 2 results in calm (2 trained now)" in text
    expected = rows(place / "calm")

    out = place / "disturbed"
    killed = sweep(place, "--out", "disturbed")
    wait_for(killed, out, lines=6)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=LIMIT_S)
    assert len(rows(out)) < 2

    for number, code, lines in ((signal.SIGINT, 130, 10), (signal.SIGTERM, 143, 14)):
        stopped = sweep(place, "--out", "disturbed")
        wait_for(stopped, out, lines)
        stopped.send_signal(number)
        status, text, err = finished(stopped)
        if len(rows(out)) < 2:  # else the signal came during the last steps of the last run
            assert status == code
            assert "the same command goes on from the last checkpoints" in err

    status, text, err = finished(sweep(place, "--out", "disturbed"))
    assert (status, err) == (0, "")
    assert rows(out) == expected
    resumed = [json.loads(path.read_text())["timing"]["resumed_from_step"] for path in out.glob("runs/*/result.json")]
    assert max(resumed) > 0
    for path in out.glob("runs/*/metrics.jsonl"):
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(3, STEPS + 1, 3))
    check_status_and_run(capsys)


def check_status_and_run(capsys):
    """`status` counts what is done; `run` leaves a finished run alone, and refuses an index that is none."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert main(["status", "disturbed"]) == 0
    assert re.fullmatch(r"2 done\ndevice-hours: \S+ spent, about 0 left\n", capsys.readouterr().out)
    assert main(["status", "disturbed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["done"] == 2
    assert {run["state"] for run in found["runs"]} == {"done"}
    command = ["run", "mine.py", "--text", "text.txt", "--out", "disturbed", "--index"]
    assert main([*command, "1"]) == 0
    assert "1 of 1 results in disturbed (0 trained now)" in capsys.readouterr().out
    assert main([*command, "2"]) == 2
    assert "--index 2 is not one of the 2 runs 0..1" in capsys.readouterr().err
    for number, handler in handlers.items():
        signal.signal(number, handler)
