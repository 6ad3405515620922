"""`capscale launch`: scripts for clusters, dry-run and carried out by stand-ins for sbatch, gcloud, xpk and sky."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny

from capscale.cli import main
from capscale.sweep.launchfiles import accelerator_type, job_name
from capscale.sweep.slices import find_slice

TESTS = Path(tiny.__file__).parent
RECORD = 'printf "%s\\n" "$(basename "$0")" "$@" >>"$CALLS"; echo --- >>"$CALLS"\n'
EXPERIMENT = """
import tiny

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed) for seed in range(2)]
"""

# What stands in for each client: it records its arguments, then starts the workers as the real one would.
STAND_INS = {
    "sbatch": """
for index in $(seq $(sed -n 's/^#SBATCH --array=\\([0-9]*\\)-\\([0-9]*\\).*/\\1 \\2/p' "$1")); do
  SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index bash "$1"
done
""",
    "scontrol": "",
    "gcloud": """
if [ "$4" = describe ]; then
  if [ -z "${STATE:-}" ]; then exit 1; fi
  echo "$STATE"
fi
while [ $# -gt 0 ]; do
  if [ "$1" = --command ]; then (cd "$PLACE" && bash -c "${2/cd capscale \\&\\& /}"); fi
  shift
done
""",
    "xpk": """
while [ $# -gt 0 ]; do
  if [ "$1" = --command ]; then bash -c "$2"; fi
  shift
done
""",
    "sky": """
export "${@: -2:1}"
python - "${@: -1}" <<'END'
import subprocess, sys, yaml
task = yaml.safe_load(open(sys.argv[1]))
sys.exit(subprocess.run(["bash", "-c", task["run"]]).returncode)
END
""",
    "pip": "",
}

OPTIONS = {
    "slurm": ["--at-once", "2", "--devices-per-run", "4"],
    "gcloud": ["--topology", "v5e:4x4", "--zone", "us-central1-a"],
    "xpk": ["--topology", "v4:2x2x1", "--zone", "us-central2-b", "--cluster", "pod", "--image", "gcr.io/p/capscale"],
    "skypilot": ["--accelerators", "H100:1"],
}


def executable(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an experiment, a text, and stand-ins for the clients on the path."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    (tmp_path / "bin").mkdir()
    for name, script in STAND_INS.items():
        executable(tmp_path / "bin" / name, f"#!/usr/bin/env bash\nset -e\n{RECORD}{script}")
    executable(tmp_path / "bin" / "capscale", f"#!/usr/bin/env bash\n{RECORD}{{ sleep 0; exit ${{STATUS:-0}}; }}\n")
    # Not a link: one into a virtual environment is not recognised as part of it.
    executable(tmp_path / "bin" / "python", f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(where, *more):
    """The script of a launcher, written to a file."""
    script = Path(f"launch-{where}.sh")
    common = [where, "mine.py", "--out", "out dir", "--text", "text.txt", "--script", str(script)]
    assert main(["launch", *common, *OPTIONS[where], *more]) == 0
    subprocess.run(["bash", "-n", str(script)], check=True)
    return script


def calls(place):
    text = (place / "calls").read_text() if (place / "calls").exists() else ""
    return [call.split("\n")[:-1] for call in text.split("---\n")[:-1]]


def started(where, script, **environment):
    """Carries a script out, as a user would."""
    command = ["sbatch", str(script)] if where == "slurm" else ["bash", str(script)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | environment)


WORKER = ["capscale", "run", "mine.py", "--out", "out dir", "--ladder", "nano", "--text", "text.txt"]


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
    for wanted in ("--array=0-1%2", "--gpus=4", "--time=24:00:00", "--signal=B:TERM@120", "--requeue"):
        assert f"#SBATCH {wanted}" in lines


@pytest.mark.parametrize(("status", "requeued"), [(143, [["scontrol", "requeue", "7_1"]]), (2, []), (0, [])])
def test_slurm_queues_a_preempted_task_again(status, requeued, place):
    script = written("slurm")
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "STATUS": str(status)}
    done = subprocess.run(["bash", str(script)], check=False, env=os.environ | task)
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
            task.communicate()
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
    (place / "slowly").write_text('trap \'case $BASH_COMMAND in "capscale "*) echo ready; sleep 0.5;; esac\' DEBUG\n')
    with slurm_task(written("slurm"), BASH_ENV=str(place / "slowly")) as task:
        assert task.stdout.readline() == "ready\n"
        task.terminate()
        assert task.stdout.read() == ""
    assert task.returncode == 143
    assert ["scontrol", "requeue", "7_1"] in calls(place)


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
    setup, pip, run, worker = rest
    assert setup[:-1] == run[:-1] == [*tpu_vm, "ssh", name, *where, "--worker=all", "--command"]
    assert pip == ["pip", "install", "."]
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
    done = subprocess.run(["bash", str(script), "--dry-run"], check=True, capture_output=True, text=True)
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
    assert job_name("paper_capacity", "paper") == "capscale-paper-capacity-paper"
    assert job_name("größe", "nano") == "capscale-gr-e-nano"


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
