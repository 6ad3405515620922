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
from capscale.train.early import Lost, write_stopped

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
TRIALS = """
from support import tiny
from capscale.train.loop import LoopIntervals
from capscale.train.run import Optimizer
LoopIntervals.of = classmethod(lambda cls, run, **_: LoopIntervals(3, 1e9))

def runs(ladder, data):
    fair = tiny.run(data=data, tokens=60 * 64, optimizer=Optimizer(0.02))
    return [fair, *(tiny.run(data=data, tokens=60 * 64, optimizer=Optimizer(rate)) for rate in (1e-5, 0.03))]
"""
TESTS = Path(tiny.__file__).parents[1]
RUNS = tuple(tiny.run(seed=seed) for seed in range(3))
SWEEP = Sweep("mine", NANO, tiny.corpus().id, RUNS)


def stopped(place, run):
    lost = Lost(step=3, steps=9, loss=5.0, against="another", against_loss=4.0, gained=0.1, factor=1.0)
    directory = SWEEP.directory_of(run, epath.Path(place))
    directory.mkdir(parents=True)
    write_stopped([directory], [run], lost)


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


def test_runs_that_were_stopped_early_are_over_where_runs_are_stopped(tmp_path):
    trained(tmp_path, RUNS[:2])
    stopped(tmp_path, RUNS[2])
    outcome, said = launched(tmp_path, "0", stopping=True)
    assert (outcome.present, outcome.stopped, outcome.failed) == (2, 1, [])
    assert "1 of 3 runs were stopped early" in said.getvalue()
    assert not list(tmp_path.glob("started-*")), "nothing is left to do"
    assert launched(tmp_path, "0")[0].failed, "without the flag it is to go on, and nobody trains it"


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


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder with an experiment and a text, on a host that is said to have two GPUs; processes train on its CPU."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setattr(chip_groups, "host_devices", lambda: chip_groups.HostDevices("GPU", ("3", "5")))
    return tmp_path


@pytest.mark.slow
def test_a_sweep_by_processes_trains_each_run_once(host, capfd):
    tmp_path = host
    assert main(["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--mode", "processes"]) == 0
    said, _ = capfd.readouterr()
    assert "3 of 3 results in out (3 trained now)" in said
    lines = (tmp_path / "seen").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"-", "3", "5"}, "each process sees a device of its own"
    assert len(list(tmp_path.glob("out/runs/*/result.json"))) == 3
    assert not list(tmp_path.glob("out/runs/*/result.conflict.json"))


@pytest.mark.slow
def test_a_task_shares_its_host_and_stops_its_loser(host, capfd):
    """`capscale run` of a few runs, as launch files start it; the run to stop is begun once another one has ended."""
    (host / "mine.py").write_text(TRIALS)
    command = ["run", "mine.py", "--text", "text.txt", "--out", "out", "--mode", "processes", "--stop-losers"]
    assert main([*command, "--index", "0"]) == 0
    assert main([*command, "--index", "0", "1", "2"]) == 0
    said, _ = capfd.readouterr()
    assert "2 of 3 results in out (1 trained now), 1 stopped early" in said
    (found,) = host.glob("out/runs/*/stopped.json")
    assert json.loads(found.read_text())["words"] in said, "why it was stopped is shown"
    assert main([*command[:-1], "--index", "0", "1", "2"]) == 0
    assert "3 of 3 results in out (1 trained now)" in capfd.readouterr().out


def test_groups_of_a_task_are_checked_before_anything_else(host, capsys):
    command = ["run", "mine.py", "--text", "text.txt", "--out", "out", "--index", "0", "--devices-per-run"]
    for options, why in (
        (["3", "--mode", "processes"], "this host has 2 GPUs; ask for fewer"),
        (["0", "--mode", "processes"], "--devices-per-run 0 must be at least 1"),
        (["2"], "--devices-per-run 2 of `run` is for --mode processes; drop it"),
        (["1", "--mode", "processes", "--distributed"], "--mode processes starts processes that train apart"),
    ):
        assert main([*command, *options]) == 2
        assert why in capsys.readouterr().err
    assert not (host / "out").exists()
