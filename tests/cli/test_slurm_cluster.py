"""The launch file for Slurm on a real Slurm of one node: arrays, requeues, time limits, a node that is lost."""

import os
import subprocess
from pathlib import Path

import pytest
from support.launching import TESTS, executable, make_place, written
from support.limits import LIMIT_S
from support.slurm import slurm, until

pytestmark = pytest.mark.ci

WORKER = """#!/usr/bin/env bash
if [ "$1" = missing ]; then
  for index in 0 1 2 3; do [ -e "$PLACE/done-$index" ] || echo "$index"; done
  exit
fi
index=${@: -1}
echo "start $SLURM_ARRAY_TASK_ID" >>"$PLACE/log-$index"
if [ -e "$PLACE/go" ]; then touch "$PLACE/done-$index"; exit 0; fi
trap 'echo saved >>"$PLACE/log-$index"; exit 143' TERM
while :; do sleep 0.1; done
"""
"""A worker that trains until it is told that this is enough; what it leaves says what has happened to it."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture
def place(tmp_path, monkeypatch, cluster):
    found = make_place(tmp_path, monkeypatch)
    for name in ("sbatch", "squeue", "scontrol"):
        (found / "bin" / name).unlink()
    executable(found / "bin" / "capscale", WORKER)
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    yield found
    (found / "go").touch()
    if jobs := queued(cluster, "%A"):
        cluster.ask("scancel", *jobs)
        until(lambda: not queued(cluster, "%A"), "tasks do not end")


def queued(cluster, what="%K"):
    return cluster.ask("squeue", "--array", "--noheader", f"--format={what}").split()


def submit(*, limit=None):
    limits = {} if limit is None else {"SBATCH_TIMELIMIT": limit}
    command = ["bash", "launch-slurm.sh"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | limits, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def log(place, index):
    path: Path = place / f"log-{index}"
    return path.read_text().splitlines() if path.exists() else []


def small(*more):
    """The script for tasks of one core and one device, so that two run at a time."""
    return written("slurm", "--devices-per-run", "1", "--cpus", "1", *more)


def test_slurm_accepts_the_script(place, cluster):
    for options in ([], ["--partition", "gpus", "--host-memory", "100M", "--setup", "true", "--at-once", "1"]):
        script = small(*options)
        cluster.ask("sbatch", "--test-only", "--array=0,2", str(script), "task", "0", "2")
    with pytest.raises(subprocess.CalledProcessError):  # it does refuse
        cluster.ask("sbatch", "--test-only", "--array=0", str(small("--partition", "none")), "task", "0")


def test_an_array_of_what_is_missing_and_two_launchers(place, cluster):
    small()
    (place / "done-1").touch()
    assert "Submitted batch job" in submit()
    assert sorted(queued(cluster)) == ["0", "2", "3"]
    assert "every run that is missing is queued already" in submit(), "a second launcher adds nothing"
    until(lambda: sum(bool(log(place, index)) for index in (0, 2, 3)) == 2, "two tasks start")
    (place / "go").touch()
    first = [index for index in (0, 2, 3) if log(place, index)]
    for task in cluster.ask("squeue", "--states=RUNNING", "--noheader", "--format=%i").split():
        cluster.ask("scancel", "--signal=TERM", "--batch", task)  # as a preemption does
    until(lambda: all((place / f"done-{index}").exists() for index in (0, 2, 3)), "all tasks end")
    until(lambda: not queued(cluster), "nothing is left in the queue")
    for index in first:
        assert log(place, index) == [f"start {index}", "saved", f"start {index}"], "requeued, and at work again"
    assert log(place, 1) == []
    assert "every run has a result" in submit()


def test_a_task_saves_ahead_of_its_time_limit_and_goes_on(place, cluster):
    small()
    for index in (1, 2, 3):
        (place / f"done-{index}").touch()
    submit(limit="2")
    until(lambda: log(place, 0) == ["start 0", "saved"], "the task saves before its two minutes are over")
    (place / "go").touch()
    until((place / "done-0").exists, "the task goes on")
    assert log(place, 0) == ["start 0", "saved", "start 0"]


def test_a_node_that_is_lost_and_comes_back(place, cluster):
    small()
    for index in (1, 2, 3):
        (place / f"done-{index}").touch()
    submit()
    until(lambda: log(place, 0) == ["start 0"], "the task starts")
    cluster.ask("scontrol", "update", f"nodename={cluster.node}", "state=down", "reason=test")
    until(lambda: queued(cluster, "%T") == ["PENDING"], "the task is queued again")
    (place / "go").touch()
    cluster.ask("scontrol", "update", f"nodename={cluster.node}", "state=resume")
    until((place / "done-0").exists, "the task goes on when the node is back")
    assert log(place, 0)[-1] == "start 0"
    assert log(place, 0).count("start 0") == 2


def test_a_sweep_is_trained(place, cluster, monkeypatch):
    """By the real capscale, two runs a task; then nothing is missing."""
    real = '"import sys; from capscale.cli import main; sys.exit(main())"'
    executable(place / "bin" / "capscale", f'#!/usr/bin/env bash\nexec python -c {real} "$@"\n')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]))
    small("--runs-per-task", "2", "--out", str(place / "out"), "--text", str(place / "text.txt"))
    submit()
    until(lambda: not queued(cluster), "the task ends", seconds=LIMIT_S)
    assert len(list(place.glob("out/runs/*/result.json"))) == 2, next(iter(place.glob("*.log"))).read_text()
    assert "every run has a result" in submit()
