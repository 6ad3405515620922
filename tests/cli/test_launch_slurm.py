"""The script of `capscale launch slurm`: its array, and how tasks end; `sbatch` and its like are stand-ins."""

import os
import signal
import subprocess
import threading
from contextlib import contextmanager

import pytest
from support.launching import calls, executable, make_place, started, workers, written
from support.limits import LIMIT_S

TASK = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


def test_a_task_asks_for_its_machine(place):
    asked = ["--account", "us", "--partition", "gpu", "--cpus", "8", "--host-memory", "64G", "--setup", "echo ready"]
    lines = written("slurm", *asked).read_text().splitlines()
    for wanted in ("--nodes=1", "--gpus=4", "--time=24:00:00", "--signal=B:TERM@120", "--requeue"):
        assert f"#SBATCH {wanted}" in lines
    for wanted in ("--account=us", "--partition=gpu", "--cpus-per-task=8", "--mem=64G"):
        assert f"#SBATCH {wanted}" in lines
    assert lines.index("echo ready || exit") < lines.index(
        "capscale run mine.py --out 'out dir' --ladder nano --text text.txt --index \"${indices[@]}\" &"
    )
    plain = written("slurm").read_text()
    assert not [word for word in ("--account", "--partition", "--cpus", "--mem") if word in plain]


def test_an_array_of_what_is_missing_and_not_queued(place):
    done = started(written("slurm"), MISSING="0\n1\n3 4\n9\n11\n", QUEUED="1\n9\n")
    assert done.returncode == 0, done.stderr
    (sbatch,) = calls(place, "sbatch")
    assert sbatch == ["sbatch", "--array=0,3,11%2", "launch-slurm.sh", "task", "0", "3 4", "11"]
    assert [call[call.index("--index") + 1 :] for call in workers(place)] == [["0"], ["3", "4"], ["11"]]
    (squeue,) = calls(place, "squeue")
    assert "--name=capscale-mine-nano" in squeue


def test_nothing_is_submitted_where_all_is_queued(place):
    done = started(written("slurm"), QUEUED="0\n1\n")
    assert done.returncode == 0
    assert "every run that is missing is queued already" in done.stdout
    assert not calls(place, "sbatch")


def test_a_queue_that_cannot_be_read_submits_nothing(place):
    executable(place / "bin" / "squeue", "#!/bin/sh\nexit 1\n")
    assert started(written("slurm")).returncode == 1
    assert not calls(place, "sbatch")


@pytest.mark.parametrize(
    ("status", "requeued"),
    [*((status, [["scontrol", "requeue", "7_1"]]) for status in (143, 75)), (2, []), (0, []), (134, [])],
)
def test_a_preempted_task_is_queued_again(status, requeued, place):
    """A task is one process, which no other one leaves: an abort is its own, and would be again."""
    (place / "statuses").write_text(f"{status}\n")
    assert started(written("slurm"), "task", "0", "1", **TASK).returncode == status
    assert calls(place, "scontrol") == requeued


def test_a_setup_that_fails_ends_the_task(place):
    assert started(written("slurm", "--setup", "exit 3"), "task", "0", "1", **TASK).returncode == 3
    assert not workers(place)


@contextmanager
def slurm_task(script, **environment):
    """A task of the array that has begun, its output read line by line; nothing of it is left afterwards."""
    environment = os.environ | TASK | environment
    command = ["bash", script, "task", "0", "1"]
    with subprocess.Popen(command, stdout=-1, text=True, env=environment, start_new_session=True) as task:
        late = threading.Timer(60, os.killpg, (task.pid, signal.SIGKILL))
        late.start()
        try:
            yield task
            task.communicate(timeout=LIMIT_S)
        finally:
            late.cancel()


SLOW_TO_SAVE = "#!/bin/sh\ntrap 'sleep 0.3; echo saved; exit 143' TERM\necho ready\nwhile :; do sleep 0.01; done\n"


def test_sigterm_is_handed_on_and_the_worker_waited_for(place):
    executable(place / "bin" / "capscale", SLOW_TO_SAVE)
    with slurm_task(written("slurm")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == "saved\n"
    assert task.returncode == 143
    assert calls(place) == [["scontrol", "requeue", "7_1"]]


def test_a_sigterm_is_handed_on_that_comes_with_the_start_of_the_worker(place):
    """The script rests before each of its commands, so that the worker is ahead of whatever follows its start."""
    executable(place / "bin" / "capscale", SLOW_TO_SAVE)
    (place / "slowly").write_text("trap 'sleep 0.3' DEBUG\n")
    with slurm_task(written("slurm"), BASH_ENV=str(place / "slowly")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == "saved\n"
    assert task.returncode == 143
    assert ["scontrol", "requeue", "7_1"] in calls(place)


def test_a_task_is_queued_again_whose_worker_was_not_started_yet(place):
    executable(place / "bin" / "capscale", "#!/bin/sh\necho started\n")
    (place / "slowly").write_text("trap 'case $BASH_COMMAND in \"capscale \"*) echo ready; sleep 0.5;; esac' DEBUG\n")
    with slurm_task(written("slurm"), BASH_ENV=str(place / "slowly")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == ""
    assert task.returncode == 143
    assert ["scontrol", "requeue", "7_1"] in calls(place)


@pytest.mark.parametrize("status", [0, 2])
def test_the_status_is_that_of_a_worker_that_ends_at_once(status, place):
    """It has ended before the script, which rests after its wait, can look whether it still lives."""
    executable(
        place / "bin" / "capscale",
        f"#!/bin/sh\ntrap 'exit {status}' TERM\nsleep 0.3; echo ready\nwhile :; do sleep 0.01; done\n",
    )
    (place / "slowly").write_text("trap 'case $BASH_COMMAND in \"status=\"*) sleep 0.5;; esac' DEBUG\n")
    with slurm_task(written("slurm"), BASH_ENV=str(place / "slowly")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == ""
    assert task.returncode == status
    assert calls(place) == []
