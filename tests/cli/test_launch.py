"""`capscale launch`: scripts for clusters, dry-run and carried out by stand-ins for sbatch, gcloud, xpk and sky."""

import json
import os
import signal
import subprocess
import threading
from contextlib import contextmanager

import pytest
from support.launching import EXPERIMENT, OPTIONS, TESTS, calls, executable, make_place, started, written
from support.limits import LIMIT_S

from capscale.cli import main
from capscale.errors import UserError
from capscale.sweep.launchfiles import accelerator_type, job_name
from capscale.sweep.slices import find_slice

WORKER = ["capscale", "run", "mine.py", "--out", "out dir", "--ladder", "nano", "--text", "text.txt"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


@pytest.mark.parametrize("where", ["slurm", "xpk", "skypilot"])
def test_every_run_is_started_once_with_its_index(where, place):
    if where == "skypilot":
        pytest.importorskip("yaml")
    (place / "tmp").mkdir()
    done = started(where, written(where), TMPDIR=str(place / "tmp"))
    assert done.returncode == 0, done.stderr
    assert not list((place / "tmp").iterdir())
    workers = [call for call in calls(place) if call[0] == "capscale"]
    together = ["--mode", "mesh", "--distributed"] if where == "xpk" else []
    assert workers == [[*WORKER, *together, "--index", str(index)] for index in range(2)]


def test_slurm_asks_for_an_array(place):
    lines = written("slurm").read_text().splitlines()
    for wanted in ("--array=0-1%2", "--nodes=1", "--gpus=4", "--time=24:00:00", "--signal=B:TERM@120", "--requeue"):
        assert f"#SBATCH {wanted}" in lines


@pytest.mark.parametrize(
    ("status", "requeued"),
    [*((status, [["scontrol", "requeue", "7_1"]]) for status in (143, 75)), (2, []), (0, [])],
)
def test_slurm_queues_a_preempted_task_again(status, requeued, place):
    script = written("slurm")
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "STATUS": str(status)}
    done = subprocess.run(["bash", str(script)], check=False, env=os.environ | task, timeout=LIMIT_S)
    assert done.returncode == status
    assert [call for call in calls(place) if call[0] == "scontrol"] == requeued


@contextmanager
def slurm_task(script, **environment):
    """A task of the array that has begun, its output read line by line; nothing of it is left afterwards."""
    environment = os.environ | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"} | environment
    with subprocess.Popen(["bash", script], stdout=-1, text=True, env=environment, start_new_session=True) as task:
        late = threading.Timer(60, os.killpg, (task.pid, signal.SIGKILL))
        late.start()
        try:
            yield task
            task.communicate(timeout=LIMIT_S)
        finally:
            late.cancel()


SLOW_TO_SAVE = "#!/bin/sh\ntrap 'sleep 0.3; echo saved; exit 143' TERM\necho ready\nwhile :; do sleep 0.01; done\n"


def test_slurm_hands_sigterm_on_and_waits_for_the_worker(place):
    executable(place / "bin" / "capscale", SLOW_TO_SAVE)
    with slurm_task(written("slurm")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == "saved\n"
    assert task.returncode == 143
    assert calls(place) == [["scontrol", "requeue", "7_1"]]


def test_slurm_hands_on_a_sigterm_that_comes_with_the_start_of_the_worker(place):
    """The script rests before each of its commands, so that the worker is ahead of whatever follows its start."""
    executable(place / "bin" / "capscale", SLOW_TO_SAVE)
    (place / "slowly").write_text("trap 'sleep 0.3' DEBUG\n")
    with slurm_task(written("slurm"), BASH_ENV=str(place / "slowly")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == "saved\n"
    assert task.returncode == 143
    assert ["scontrol", "requeue", "7_1"] in calls(place)


def test_slurm_queues_a_task_again_whose_worker_was_not_started_yet(place):
    executable(place / "bin" / "capscale", "#!/bin/sh\necho started\n")
    (place / "slowly").write_text("trap 'case $BASH_COMMAND in \"capscale \"*) echo ready; sleep 0.5;; esac' DEBUG\n")
    with slurm_task(written("slurm"), BASH_ENV=str(place / "slowly")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == ""
    assert task.returncode == 143
    assert ["scontrol", "requeue", "7_1"] in calls(place)


@pytest.mark.parametrize("status", [0, 2])
def test_slurm_takes_the_status_of_a_worker_that_ends_at_once(status, place):
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


def test_gcloud_makes_the_slice_and_starts_all_hosts(place):
    done = started("gcloud", written("gcloud"))
    assert done.returncode == 0, done.stderr
    describe, create, copy, *rest = calls(place)
    tpu_vm, where = ["gcloud", "compute", "tpus", "tpu-vm"], ["--zone", "us-central1-a"]
    name = "capscale-mine-nano"
    assert describe == [*tpu_vm, "describe", name, *where, "--format", "value(state)"]
    kind = ["--accelerator-type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite", "--spot"]
    assert create == [*tpu_vm, "create", name, *where, *kind]
    assert copy == [*tpu_vm, "scp", "--recurse", ".", f"{name}:capscale", *where, "--worker=all"]
    setup, pip, uv, run, worker = rest
    assert setup[:-1] == run[:-1] == [*tpu_vm, "ssh", name, *where, "--worker=all", "--command"]
    assert pip == ["python3", "-m", "pip", "install", "uv"]
    assert uv[:5] == ["python3", "-m", "uv", "tool", "install"]
    assert uv[-3:] == ["--python", "3.12", ".[tpu]"]
    assert worker == ["capscale", "sweep", *WORKER[2:], "--mode", "mesh", "--distributed"]


@pytest.mark.parametrize(
    ("state", "made"), [("READY", []), ("PREEMPTED", ["delete", "create"]), ("TERMINATED", ["delete", "create"])]
)
def test_gcloud_makes_a_preempted_slice_again(state, made, place):
    """It is still described, and nothing can be started on it: what is left has to be deleted first."""
    done = started("gcloud", written("gcloud"), STATE=state)
    assert done.returncode == 0, done.stderr
    assert [call[4] for call in calls(place) if call[0] == "gcloud"] == ["describe", *made, "scp", "ssh", "ssh"]


def test_xpk_takes_any_word_of_a_path(place):
    """Such as one that the script might use itself."""
    script = written("xpk", "--out", "gs://b/INDEX/$index")
    assert started("xpk", script).returncode == 0
    workers = [call for call in calls(place) if call[0] == "capscale"]
    assert [call[call.index("--out") + 1] for call in workers] == ["gs://b/INDEX/$index"] * 2
    assert [call[call.index("--index") + 1] for call in workers] == ["0", "1"]


@pytest.mark.parametrize("where", OPTIONS)
def test_settings_that_make_a_run_fit_reach_the_workers(where, place):
    script = written(where, "--fsdp", "4", "--microbatches", "8", "--remat")
    assert "--fsdp 4 --microbatches 8 --remat" in script.read_text()


@pytest.mark.parametrize("where", ["gcloud", "xpk", "skypilot"])
def test_dry_run_prints_the_commands_and_starts_nothing(where, place):
    script = written(where)
    done = subprocess.run(
        ["bash", str(script), "--dry-run"], check=True, capture_output=True, text=True, timeout=LIMIT_S
    )
    client = {"gcloud": "gcloud compute tpus", "xpk": "xpk workload create", "skypilot": "sky jobs launch"}[where]
    assert done.stdout.count(client) == {"gcloud": 4, "xpk": 2, "skypilot": 2}[where]
    assert "describe" in json.dumps(calls(place)) if where == "gcloud" else calls(place) == []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["slurm", "gcloud", "xpk", "skypilot"])
def test_the_workers_train_a_sweep(where, place):
    """The commands of the script, carried out by the real capscale (as one process, where many are meant)."""
    if where == "skypilot":
        pytest.importorskip("yaml")
    real = (
        'exec python -c "import sys; from capscale.cli import main; sys.exit(main())" "${@/--distributed/--no-remat}"'
    )
    executable(place / "bin" / "capscale", f"#!/usr/bin/env bash\n{real}\n")
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    for _ in range(2):
        done = started(where, written(where), PYTHONPATH=path, JAX_PLATFORMS="cpu")
        assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in place.glob("out dir/runs/*/result.json")]
    assert [result["status"] for result in results] == ["ok", "ok"]
    assert "(0 trained now" in done.stdout


@pytest.mark.parametrize(
    ("slice_", "name"),
    [("v5e:4x4", "v5litepod-16"), ("v4:2x2x1", "v4-8"), ("v5p:2x2x2", "v5p-16"), ("v6e:2x2", "v6e-4")],
)
def test_names_of_slices(slice_, name):
    assert accelerator_type(find_slice(slice_)) == name


def test_job_names():
    assert job_name("paper_capacity", "paper", 96) == "capscale-paper-capacity-paper"
    assert job_name("größe", "nano", 1) == "capscale-gr-e-nano"


@pytest.mark.parametrize(("runs", "fits"), [(10, True), (11, False)])
def test_the_name_of_every_run_fits(runs, fits):
    """xpk and SkyPilot get the job's name with the index of a run."""
    name = "e" * (40 - len("capscale--nano-9"))
    if fits:
        assert len(f"{job_name(name, 'nano', runs)}-{runs - 1}") == 40
    else:
        with pytest.raises(UserError, match=rf"job name 'capscale-{name}-nano-10' has over 40 letters"):
            job_name(name, "nano", runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["gcloud"], "launch gcloud needs --zone"),
        (["xpk", "--zone", "z"], "launch xpk needs --cluster"),
        (["xpk", "--zone", "z", "--cluster", "c"], "launch xpk needs --image"),
        (["gcloud", "--zone", "z", "--topology", "v5e:9"], "topology 'v5e:9' is no slice of v5e"),
        (["slurm", "--hours", "0"], "--hours 0 must be at least 1"),
        (["slurm", "--at-once", "-3"], "--at-once -3 must be at least 1"),
        (["slurm", "--devices-per-run", "0"], "--devices-per-run 0 must be at least 1"),
        (["slurm", "--fsdp", "0"], "--fsdp 0 must be at least 1"),
        (["slurm", "--script", "nowhere/x.sh"], "nowhere/x.sh cannot be written (No such file or directory)"),
    ],
)
def test_what_is_missing_is_named(options, message, place, capsys):
    where, *more = options
    assert main(["launch", where, "mine.py", "--out", "out", "--text", "text.txt", *more]) == 2
    assert message in capsys.readouterr().err


def test_a_name_that_clouds_refuse_is_refused(place, capsys):
    long = place / f"{'long' * 12}.py"
    long.write_text(EXPERIMENT)
    assert main(["launch", "slurm", str(long), "--out", "out", "--text", "text.txt"]) == 2
    assert "has over 40 letters" in capsys.readouterr().err
