"""Several processes on one host that share a sweep, each with devices of its own."""

import io
import json
import os
import sys
from pathlib import Path
from threading import Event, Timer

import pytest
from etils import epath
from rich.console import Console
from support import tiny

from capscale.cli import main
from capscale.models.ladder import NANO
from capscale.sweep import chip_groups
from capscale.sweep.display import Display
from capscale.sweep.plan import Sweep
from capscale.sweep.processes import launch_processes

WORKER = """
import json, os, pathlib, signal, sys, time
place, group = pathlib.Path(sys.argv[1]), os.environ["GROUP"]
signal.signal(signal.SIGTERM, lambda *_: (place / f"saved-{group}").touch() or os._exit(143))
(place / f"started-{group}").touch()
if group in sys.argv[3:]:
    sys.exit(int(sys.argv[2]))
time.sleep(60 if sys.argv[2] == "wait" else 0)
"""
EXPERIMENT = """
import os
from support import tiny

def runs(ladder, data):
    with open("seen", "a") as seen:
        seen.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '-')} {os.getpid()}\\n")
    return [tiny.run(data=data, seed=seed) for seed in range(3)]
"""
TESTS = Path(tiny.__file__).parents[1]
RUNS = tuple(tiny.run(seed=seed) for seed in range(3))
SWEEP = Sweep("mine", NANO, tiny.corpus().id, RUNS)


def launched(place, *told, groups=("a", "b"), **options):
    command = [sys.executable, "-c", WORKER, str(place), *told]
    said = io.StringIO()
    environments = [{"GROUP": group} for group in groups]
    display = Display(Console(file=said))
    return launch_processes(SWEEP, command, environments, epath.Path(place), display, look_s=0.05, **options), said


def trained(place, runs):
    for run in runs:
        tiny.train_one(run, SWEEP.directory_of(run, epath.Path(place)))


def test_each_group_has_a_process_and_results_are_counted_whoever_made_them(tmp_path):
    trained(tmp_path, RUNS)
    outcome, _ = launched(tmp_path, "0")
    assert (outcome.present, outcome.trained, outcome.failed) == (3, 0, [])
    assert not list(tmp_path.glob("started-*")), "nothing is missing"
    (SWEEP.directory_of(RUNS[0], epath.Path(tmp_path)) / "result.json").unlink()
    assert launched(tmp_path, "0")[0].failed, "nobody trains it"
    assert [path.name for path in tmp_path.glob("started-*")] == ["started-a"], "no more than there are runs"


def test_why_runs_are_missing_is_told(tmp_path):
    trained(tmp_path, RUNS[:1])
    directory = SWEEP.directory_of(RUNS[1], epath.Path(tmp_path))
    directory.mkdir(parents=True)
    (directory / "error.json").write_text(json.dumps({"error": "no memory"}))
    outcome, _ = launched(tmp_path, "75", "a")
    assert outcome.failed == [
        f"run {RUNS[1].run_id}: no memory",
        f"run {RUNS[2].run_id}: its workers ended with 0, 75",
    ]
    assert outcome.passing == 2, "which may pass by itself"
    assert launched(tmp_path, "2", "b")[0].passing == 0


def test_a_stop_reaches_every_process_once(tmp_path):
    stop = Event()

    def when_started():
        if len(list(tmp_path.glob("started-*"))) == 2:
            stop.set()
        else:
            later()

    def later():
        timer = Timer(0.1, when_started)
        timer.daemon = True
        timer.start()

    later()
    outcome, _ = launched(tmp_path, "wait", stop=stop)
    assert outcome.interrupted
    assert outcome.failed == []
    assert len(list(tmp_path.glob("saved-*"))) == 2


@pytest.mark.slow
def test_a_sweep_by_processes_trains_each_run_once(tmp_path, monkeypatch, capfd):
    """The command as a whole, on a host that is said to have two GPUs; the processes train on its CPU."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setattr(chip_groups, "host_devices", lambda: chip_groups.HostDevices("GPU", ("3", "5")))
    assert main(["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--mode", "processes"]) == 0
    said, _ = capfd.readouterr()
    assert "3 of 3 results in out (3 trained now)" in said
    lines = (tmp_path / "seen").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"-", "3", "5"}, "each process sees a device of its own"
    assert len(list(tmp_path.glob("out/runs/*/result.json"))) == 3
    assert not list(tmp_path.glob("out/runs/*/result.conflict.json"))
