"""Runs as tasks of Ray: what they ask for, how often they are tried, and a sweep whose workers are killed."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from rich.console import Console
from support import tiny
from support.limits import LIMIT_S

from capscale.cli import main
from capscale.errors import UserError
from capscale.models.ladder import NANO
from capscale.sweep import on_ray, ray_work
from capscale.sweep.display import Display
from capscale.sweep.endings import Endings
from capscale.sweep.plan import Sweep
from capscale.train.early import Lost, write_stopped
from capscale.train.journal import read_journals

ray: Any = pytest.importorskip("ray")
SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


class Played:
    """Plays the ends of attempts at one run, and counts how many are needed until it is over."""

    def __init__(self, directory, monkeypatch):
        sweep, out = Sweep("mine", NANO, tiny.corpus().id, (tiny.run(),)), epath.Path(directory)
        self.directory = sweep.directory_of(tiny.run(), out)
        self.directory.mkdir(parents=True)
        self.attempt = on_ray._Attempt(tiny.run(), 0)
        monkeypatch.setattr(ray, "get", lambda ending: ending())
        self._endings = Endings(sweep, out, Display(Console(file=io.StringIO())), stopping=True)
        self._endings.left()
        self.outcome = self._endings.outcome

    def end(self, ending, saved):
        if saved:
            (self.directory / "checkpoints" / str(saved)).mkdir(parents=True, exist_ok=True)
        reason, _ = ray_work.ending(ending)
        return on_ray._is_over(self._endings, reason, self.attempt, retries=2)


@pytest.fixture
def endings(tmp_path, monkeypatch):
    return Played(tmp_path, monkeypatch)


def dies():
    raise ray.exceptions.WorkerCrashedError


def test_a_worker_that_dies_is_replaced_as_long_as_there_is_progress(endings):
    assert not any(endings.end(dies, saved=step) for step in range(3, 60, 3))
    assert endings.outcome.failed == []


def test_a_run_without_progress_fails_after_its_retries(endings):
    over = [endings.end(dies, saved) for saved in (0, 0, 6, 6, 6, 6)]
    assert over == [False, False, False, False, False, True]
    (message,) = endings.outcome.failed
    assert message.startswith(f"run {tiny.run().run_id}: worker died (WorkerCrashedError); 3 attempts without progress")


def test_what_a_failed_worker_said_is_told(endings):
    (endings.directory / "error.json").write_text('{"error": "out of memory"}')
    assert [endings.end(lambda: 2, saved=0) for _ in range(3)] == [False, False, True]
    assert "out of memory" in endings.outcome.failed[0]


def test_a_result_ends_a_run_whatever_became_of_its_worker(endings):
    tiny.train_one(tiny.run(), endings.directory)
    assert endings.end(dies, saved=0)
    assert (endings.outcome.trained, endings.outcome.failed) == (1, [])


def test_a_run_that_was_stopped_early_is_over(endings):
    lost = Lost(step=3, steps=9, loss=5.0, against="another", against_loss=4.0, gained=0.1, factor=1.0)
    write_stopped([endings.directory], [tiny.run()], lost)
    assert endings.end(lambda: 0, saved=3)
    assert (endings.outcome.trained, endings.outcome.stopped, endings.outcome.failed) == (0, 1, [])


def test_a_damaged_result_is_reported(endings):
    (endings.directory / "result.json").write_text("{")
    assert endings.end(lambda: 0, saved=0)
    assert "result.json is not readable JSON" in endings.outcome.failed[0]


def test_checkpoints_that_are_not_complete_are_no_progress(tmp_path):
    assert on_ray.newest_checkpoint(epath.Path(tmp_path)) == 0
    for name in ("3", "12", "15.orbax-checkpoint-tmp", "unreadable-18"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert on_ray.newest_checkpoint(epath.Path(tmp_path)) == 12


def test_cluster_that_does_not_answer_is_named(tmp_path, monkeypatch):
    def init(**options):
        raise ConnectionError("Could not connect\n to GCS")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    sweep = Sweep("mine", NANO, tiny.corpus().id, (tiny.run(),))
    with pytest.raises(UserError, match=r"RAY_ADDRESS='nowhere:1' .Could not connect to GCS.; check it, or unset it"):
        on_ray.launch_on_ray(sweep, lambda index, joined: 0, epath.Path(tmp_path), Display(Console()))


def test_ray_that_cannot_be_started_here_is_not_told_of_an_address(tmp_path, monkeypatch):
    def init(**options):
        raise RuntimeError("no space for its object store")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sweep = Sweep("mine", NANO, tiny.corpus().id, (tiny.run(),))
    with pytest.raises(
        UserError, match=r"Ray cannot be started on this machine \(no space for .*\); mend that, or name"
    ):
        on_ray.launch_on_ray(sweep, lambda index, joined: 0, epath.Path(tmp_path), Display(Console()))


def test_a_damaged_result_is_one_failed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    sweep = Sweep("mine", NANO, tiny.corpus().id, (tiny.run(),))
    directory = sweep.directory_of(sweep.runs[0], epath.Path(tmp_path))
    directory.mkdir(parents=True)
    (directory / "result.json").write_text("{")
    outcome = on_ray.launch_on_ray(
        sweep, lambda index, joined: 0, epath.Path(tmp_path), Display(Console(file=io.StringIO()))
    )
    (message,) = outcome.failed
    assert "result.json is not readable JSON" in message


def test_ray_that_is_not_installed_has_a_remedy(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "from support import tiny\ndef runs(ladder, data): return [tiny.run(data=data)]\n"
    )
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--launcher", "ray"]) == 2
    assert "--launcher ray needs Ray; install it: pip install 'capscale[ray]'" in capsys.readouterr().err


def script(name, place, *options):
    """A script that kills, which ends what it started when its own limit is over."""
    command = [sys.executable, str(SCRIPTS / name), *options, "--out", str(place / "out")]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=600 + LIMIT_S)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["kill_test.py", "ray_kill_test.py"])
def test_a_script_that_kills_comes_to_an_end(name, tmp_path):
    done = script(name, tmp_path, "--limit", "0.1")
    assert done.returncode == 1
    assert "not done in 0.1 s" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_sweep_whose_workers_are_killed_ends_with_every_result_once(tmp_path):
    done = script("ray_kill_test.py", tmp_path, "--every", "5", "--steps", "400", "--limit", "600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 valid results" in done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("out/runs/*/result.json")]
    assert len(results) == 12


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_phase_keeps_its_numbers(tmp_path):
    done = script("kill_test.py", tmp_path, "--kills", "4", "--limit", "600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills, 1 runs: all the same, bit for bit" in done.stdout


EXPERIMENT = """
from support import tiny
from capscale.train.loop import LoopIntervals
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(3, 0.5, background))

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, tokens=1500 * 64) for seed in range(4)]
"""


@pytest.mark.slow
def test_a_sweep_goes_on_when_a_node_of_its_cluster_dies(tmp_path, monkeypatch):
    """Two nodes of one core, on this machine. One is taken away, with the run that it trains, once both have saved."""
    from ray.cluster_utils import Cluster

    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS.parent / "tests")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        lost, _ = [cluster.add_node(num_cpus=1) for _ in range(2)]
        code = "import sys; from capscale.cli import main; sys.exit(main())"
        options = ["sweep", "mine.py", "--text", "text.txt", "--out", "out", "--launcher", "ray"]
        environment = os.environ | {"RAY_ADDRESS": cluster.address, "JAX_PLATFORMS": "cpu"}
        with subprocess.Popen(
            [sys.executable, "-c", code, *options], cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True
        ) as sweep:
            until, out = time.monotonic() + 300, epath.Path(tmp_path) / "out"
            while sum(on_ray.newest_checkpoint(path) > 0 for path in out.glob("runs/*")) < 2:
                assert sweep.poll() is None, sweep.communicate()
                assert time.monotonic() < until
                time.sleep(0.1)
            cluster.remove_node(lost, allow_graceful=False)
            said, err = sweep.communicate(timeout=LIMIT_S + 300)
        assert sweep.returncode == 0, err
        assert f"4 of 4 results in {out.name}" in said
    finally:
        cluster.shutdown()
    results = [json.loads(path.read_text()) for path in out.glob("runs/*/result.json")]
    assert len(results) == 4
    resumed = [result for result in results if result["timing"]["resumed_from_step"]]
    assert len(resumed) == 1, "the run of the node that died goes on elsewhere, and no other was disturbed"
    (directory,) = (out / "runs" / result["run_id"] for result in resumed)
    first, second = read_journals(directory)
    assert [said["event"] for said in first] == ["start"], "no end is told of who was killed"
    assert [said["event"] for said in second] == ["start", "done"]
