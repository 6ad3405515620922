"""`capscale launch`: scripts for clusters, dry-run and carried out by stand-ins for sbatch, gcloud, xpk and sky."""

import json
import os
import subprocess

import pytest
from support.launching import (
    EXPERIMENT,
    OPTIONS,
    RECORD,
    TESTS,
    calls,
    executable,
    make_place,
    started,
    workers,
    written,
)
from support.limits import LIMIT_S

from capscale.cli import main
from capscale.errors import UserError
from capscale.sweep.launchers.cloud_tpu import accelerator_type
from capscale.sweep.launchers.job import job_name
from capscale.sweep.slices import find_slice

WORKER = ["capscale", "run", "mine.py", "--out", "out dir", "--ladder", "nano", "--text", "text.txt"]
TOGETHER = ["--mode", "mesh", "--distributed"]
ARRAYS = ("slurm", "xpk", "jobset", "skypilot")
"""Those that start a task a run, or a few."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


def carried_out(where, *options, **environment):
    if where in ("skypilot", "jobset"):
        pytest.importorskip("yaml")
    return started(written(where, *options), **environment)


@pytest.mark.parametrize("where", ARRAYS)
def test_every_run_is_started_once_with_its_index(where, place, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    done = carried_out(where, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir())
    together = TOGETHER if where in ("xpk", "jobset") else []
    assert workers(place) == [[*WORKER, *together, "--index", str(index)] for index in range(2)]


@pytest.mark.parametrize("where", ARRAYS)
def test_tasks_of_several_runs_get_all_their_indices(where, place):
    done = carried_out(where, "--runs-per-task", "2", MISSING="0 2\n1\n")
    assert done.returncode == 0, done.stderr
    assert [call[call.index("--index") + 1 :] for call in workers(place)] == [["0", "2"], ["1"]]
    asked = ["capscale", "missing", "mine.py", "--out", "out dir", "--ladder", "nano", "--runs-per-task", "2"]
    assert [call for call in calls(place, "capscale") if call[1] == "missing"] == [asked]


@pytest.mark.parametrize("where", OPTIONS)
def test_only_missing_runs_are_submitted(where, place):
    done = carried_out(where, MISSING="1\n")
    assert done.returncode == 0, done.stderr
    if where in ARRAYS:
        assert [call[-1] for call in workers(place)] == ["1"]
    (place / "calls").unlink()
    done = started(f"launch-{where}.sh", MISSING="")
    assert done.returncode == 0, done.stderr
    assert {call[0] for call in calls(place)} == {"capscale"}, "no client is asked for anything"
    assert not workers(place)


@pytest.mark.parametrize("where", OPTIONS)
def test_a_store_that_does_not_answer_ends_the_start(where, place):
    assert carried_out(where, ASKED="75").returncode == 75
    assert not workers(place)


@pytest.mark.parametrize("where", ["xpk", "jobset", "skypilot"])
def test_what_cannot_be_submitted_does_not_stop_the_others(where, place):
    (place / "refusals").write_text("no\n")
    done = carried_out(where)
    assert done.returncode == 75
    assert "capscale-mine-nano-0 was not" in done.stderr
    assert [call[-1] for call in workers(place)] == ["1"]


def test_xpk_leaves_workloads_that_are_under_way(place):
    """Nobody is asked whether to overwrite them; what has ended without a result is deleted, and made again."""
    (place / "known").write_text("capscale-mine-nano-0\ncapscale-mine-nano-1\ncapscale-mine-nano-11\n")
    (place / "ended").write_text("capscale-mine-nano-1\ncapscale-mine-nano-11\n")
    done = carried_out("xpk")
    assert done.returncode == 0, done.stderr
    assert "capscale-mine-nano-0 is under way" in done.stdout
    changing = [call[2:5] for call in calls(place, "xpk") if call[2] != "list"]
    assert changing == [[verb, "--workload", "capscale-mine-nano-1"] for verb in ("delete", "create")]
    assert [call[-1] for call in workers(place)] == ["1"]


def test_jobsets_that_are_under_way_are_left(place):
    (place / "known").write_text("capscale-mine-nano-0\ncapscale-mine-nano-11\n")
    (place / "ended").write_text("capscale-mine-nano-1\n")
    done = carried_out("jobset")
    assert done.returncode == 0, done.stderr
    assert "capscale-mine-nano-0 is under way" in done.stdout
    changing = [call[1:] for call in calls(place, "kubectl") if call[1] != "get"]
    assert changing == [["delete", "jobset", "capscale-mine-nano-1"], ["create", "--filename", "-"]]
    assert [call[-1] for call in workers(place)] == ["1"]


def test_skypilot_leaves_jobs_that_are_under_way(place):
    queue = json.dumps([{"job_name": "capscale-mine-nano-1", "status": "RECOVERING"}, {"job_name": "another-0"}])
    done = carried_out("skypilot", QUEUED=queue)
    assert done.returncode == 0, done.stderr
    assert [call[-1] for call in workers(place)] == ["0"]


@pytest.mark.parametrize("where", ["xpk", "jobset"])
def test_any_word_of_a_path_is_taken(where, place):
    """Such as one that the script might use itself."""
    assert carried_out(where, "--out", "gs://b/INDICES TASK/$index").returncode == 0
    assert [call[call.index("--out") + 1] for call in workers(place)] == ["gs://b/INDICES TASK/$index"] * 2
    assert [call[call.index("--index") + 1] for call in workers(place)] == ["0", "1"]


@pytest.mark.parametrize(
    ("accelerators", "options", "joined"),
    [
        ("tpu-v5litepod-16", [], TOGETHER),
        ("tpu-v6e-8", [], []),
        ("tpu-v4-8", [], []),
        ("H100:8", [], []),
        (
            "H100:8",
            ["--nodes", "2"],
            ["--mode", "mesh", "--coordinator", "a:8482", "--processes", "2", "--process-index", "1"],
        ),
    ],
)
def test_skypilot_starts_all_hosts_of_a_run_together(accelerators, options, joined, place):
    nodes = {"SKYPILOT_NODE_IPS": "a\nb", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    done = carried_out("skypilot", "--accelerators", accelerators, *options, **nodes)
    assert done.returncode == 0, done.stderr
    assert [call[len(WORKER) : -2] for call in workers(place)] == [joined, joined]


@pytest.mark.parametrize(
    ("where", "options", "word"),
    [
        ("gcloud", [], "--spot"),
        ("gcloud", ["--capacity", "reserved"], "--reserved"),
        ("gcloud", ["--capacity", "on-demand"], None),
        ("skypilot", [], '"use_spot": true'),
        ("skypilot", ["--capacity", "on-demand"], '"use_spot": false'),
    ],
)
def test_machines_are_bought_as_asked(where, options, word, place):
    text = written(where, *options).read_text()
    assert [found for found in ("--spot", "--reserved", '"use_spot": true', '"use_spot": false') if found in text] == [
        found for found in [word] if found
    ]


@pytest.mark.parametrize("where", OPTIONS)
def test_settings_that_make_a_run_fit_reach_the_workers(where, place):
    script = written(where, "--fsdp", "4", "--microbatches", "8", "--remat", "--unroll")
    assert "--fsdp 4 --microbatches 8 --remat --unroll" in script.read_text()


@pytest.mark.parametrize("where", OPTIONS)
def test_dry_run_prints_the_commands_and_starts_nothing(where, place):
    done = started(written(where), "--dry-run")
    assert done.returncode == 0, done.stderr
    client = {
        "slurm": ("sbatch --array=0\\,1%2", 1),
        "gcloud": ("gcloud compute tpus", 4),
        "xpk": ("xpk workload create", 2),
        "jobset": ('"kind": "JobSet"', 2),
        "skypilot": ("sky jobs launch", 2),
        "ray": ("ray job submit", 1),
    }[where]
    assert done.stdout.count(client[0]) == client[1], done.stdout
    assert {call[0] for call in calls(place)} == {"capscale"}
    assert not workers(place)


@pytest.mark.parametrize("where", ["gcloud", "skypilot"])
def test_only_files_of_the_project_are_sent(where, place):
    for name in (".venv-3.11", ".git", "runs", "out dir", "pkg/__pycache__", "pkg/runs", ".pytest_cache"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text("x")
    executable(place / "bin" / "capscale", f"{(place / 'bin' / 'capscale').read_text()}")
    listing = "import os; print(sorted(os.path.join(d, f) for d, _, fs in os.walk('.') for f in fs if f != 'calls'))"
    setup = f'python -c "{listing}"'
    done = carried_out(where, "--setup", setup)
    assert done.returncode == 0, done.stderr
    assert "./pkg/runs/file" in done.stdout
    assert "./mine.py" in done.stdout
    for name in (".venv", ".git", "./runs", "out dir", "__pycache__", ".pytest_cache"):
        assert name not in done.stdout.replace("capscale: every", "")


@pytest.mark.slow
@pytest.mark.parametrize("where", OPTIONS)
def test_the_workers_train_a_sweep(where, place):
    """The commands of the script, carried out by the real capscale (as one process, where many are meant)."""
    if where in ("skypilot", "jobset"):
        pytest.importorskip("yaml")
    real = (
        'exec python -c "import sys; from capscale.cli import main; sys.exit(main())" "${@/--distributed/--no-remat}"'
    )
    executable(place / "bin" / "capscale", f"#!/usr/bin/env bash\n{RECORD}{real}\n")
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = written(where, "--out", str(place / "out"), "--text", str(place / "text.txt"))
    for _ in range(2):
        done = started(script, PYTHONPATH=path, JAX_PLATFORMS="cpu")
        assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in place.glob("out/runs/*/result.json")]
    assert [result["status"] for result in results] == ["ok", "ok"]
    assert len(workers(place)) == (1 if where in ("gcloud", "ray") else 2), "the second start trains nothing"


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
        (["slurm", "--cpus", "0"], "--cpus 0 must be at least 1"),
        (["slurm", "--runs-per-task", "0"], "--runs-per-task 0 must be at least 1"),
        (["slurm", "--fsdp", "0"], "--fsdp 0 must be at least 1"),
        (["slurm", "--script", "nowhere/x.sh"], "nowhere/x.sh cannot be written (No such file or directory)"),
        (["slurm", "--zone", "z"], "--zone is for gcloud and xpk, not for slurm; drop it"),
        (
            ["gcloud", "--zone", "z", "--runs-per-task", "2"],
            "--runs-per-task is for slurm, xpk, jobset and skypilot, not",
        ),
        (["xpk", "--queued"], "--queued is for gcloud, not for xpk; drop it"),
        (["jobset"], "launch jobset needs --image"),
        (["gcloud", "--zone", "z", "--slices", "2"], "--slices is for xpk and jobset, not for gcloud; drop it"),
        (["skypilot", "--capacity", "reserved"], "--capacity reserved: SkyPilot takes reservations from its own"),
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


@pytest.mark.parametrize("where", OPTIONS)
def test_scripts_are_clean(where, place):
    """As shellcheck sees them, where that is installed."""
    script = written(where)
    try:
        command = ["shellcheck", "--severity=warning", str(script)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        pytest.skip("shellcheck is not installed")
    assert found.returncode == 0, found.stdout
