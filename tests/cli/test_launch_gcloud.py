"""The script of `capscale launch gcloud`: how it makes its slice, and keeps it at work; `gcloud` is a stand-in."""

import subprocess
import threading

import pytest
from support.launching import calls, executable, make_place, started, workers, written

WHERE = ["--zone", "us-central1-a"]
TPU_VM = ["gcloud", "compute", "tpus", "tpu-vm"]
NAME = "capscale-mine-nano"
SWEEP = "capscale sweep mine.py --out out@dir --ladder nano --text text.txt --mode mesh --distributed"


@pytest.fixture
def place(tmp_path, monkeypatch):
    return make_place(tmp_path, monkeypatch)


def verbs(place):
    return [call[4] for call in calls(place, "gcloud")]


def test_the_slice_is_made_and_all_hosts_are_started(place):
    done = started(written("gcloud"))
    assert done.returncode == 0, done.stderr
    describe, create, again, copy, setup, run = calls(place, "gcloud")
    assert describe == again == [*TPU_VM, "describe", NAME, *WHERE, "--format", "value(state)"]
    kind = ["--accelerator-type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite", "--spot"]
    assert create == [*TPU_VM, "create", NAME, *WHERE, *kind]
    assert copy[:5] + copy[6:] == [*TPU_VM, "scp", f"{NAME}:", *WHERE, "--worker=all"]
    assert setup[:9] == run[:9] == [*TPU_VM, "ssh", NAME, *WHERE, "--worker=all"]
    pip, uv = calls(place, "python3")
    assert pip == ["python3", "-m", "pip", "install", "uv"]
    assert uv[:5] == ["python3", "-m", "uv", "tool", "install"]
    assert uv[-3:] == ["--python", "3.12", ".[tpu]"]
    assert [" ".join(word.replace(" ", "@") for word in call) for call in workers(place)] == [SWEEP]
    assert (place / "host" / "capscale" / "mine.py").exists()
    assert "A slice costs until it is deleted" in done.stderr


@pytest.mark.parametrize(
    ("state", "made"), [("READY", []), ("PREEMPTED", ["delete", "describe", "create", "describe"])]
)
def test_a_preempted_slice_is_made_again(state, made, place):
    """It is still described, and nothing can be started on it: what is left has to be deleted first."""
    (place / "slice").write_text(f"{state}\n")
    (place / "host").mkdir()
    done = started(written("gcloud"))
    assert done.returncode == 0, done.stderr
    assert verbs(place) == ["describe", *made, "scp", "ssh", "ssh"]


@pytest.mark.parametrize("status", [75, 134, 143, 1, 255])
def test_workers_are_started_again_without_a_person(status, place):
    (place / "statuses").write_text(f"{status}\n{status}\n")
    done = started(written("gcloud"))
    assert done.returncode == 0, done.stderr
    assert len(workers(place)) == 3
    assert verbs(place).count("create") == 1
    assert f"ended with {status}; start 2 of at most 100 more" in done.stderr


def test_a_slice_that_is_lost_under_way_is_made_again(place):
    (place / "lost").write_text("once\ntwice\n")
    done = started(written("gcloud"))
    assert done.returncode == 0, done.stderr
    assert verbs(place).count("create") == 3
    assert verbs(place).count("delete") == 2
    assert len(workers(place)) == 1


def test_bad_input_is_final(place):
    (place / "statuses").write_text("2\n2\n")
    done = started(written("gcloud"))
    assert done.returncode == 2
    assert len(workers(place)) == 1


def test_starts_are_bounded(place):
    (place / "statuses").write_text("143\n" * 9)
    done = started(written("gcloud"), RESTARTS="2")
    assert done.returncode == 143
    assert len(workers(place)) == 3


NO_CAPACITY = 'ERROR: There is no more capacity in the zone "us-central1-a"\n'


def test_a_slice_is_asked_for_until_there_is_capacity(place):
    (place / "refusals").write_text(NO_CAPACITY * 3)
    done = started(written("gcloud"))
    assert done.returncode == 0, done.stderr
    assert verbs(place).count("create") == 4
    (place / "refusals").write_text(NO_CAPACITY * 9)
    (place / "slice").unlink()
    done = started("launch-gcloud.sh", TRIES="3")
    assert done.returncode == 75
    assert "no slice after 3 looks; start this script again" in done.stderr


def test_another_refusal_is_final(place):
    (place / "refusals").write_text("ERROR: (gcloud) INVALID_ARGUMENT: unknown zone\n" * 2)
    done = started(written("gcloud"))
    assert done.returncode == 2
    assert verbs(place).count("create") == 1
    assert "unknown zone" in done.stderr


def test_what_ends_meanwhile_is_not_started_again(place):
    """As when the last run was done as the connection broke."""
    (place / "statuses").write_text("255\n")
    stand_in = (place / "bin" / "capscale").read_text()
    asked = 'if [ "$1" = missing ]; then'
    assert asked in stand_in
    all_done = 'if [ "$1" = missing ] && [ -e "$PLACE/slice" ]; then exit; fi\n'
    executable(place / "bin" / "capscale", stand_in.replace(asked, all_done + asked))
    done = started(written("gcloud"))
    assert done.returncode == 0, done.stderr
    assert len(workers(place)) == 1


def test_a_queued_resource_is_waited_for_and_made_again(place):
    script = written("gcloud", "--queued", "--capacity", "reserved")
    (place / "request").write_text("WAITING_FOR_RESOURCES\n")
    done = started(script, TRIES="2")
    assert done.returncode == 75
    assert "WAITING_FOR_RESOURCES; looking again" in done.stderr
    assert set(verbs(place)) == {"describe"}
    (place / "request").write_text("SUSPENDED\n")
    done = started(script)
    assert done.returncode == 0, done.stderr
    delete, create = (
        call
        for call in calls(place, "gcloud")
        if call[3:5] in (["queued-resources", "delete"], ["queued-resources", "create"])
    )
    assert delete[-2:] == ["--force", "--quiet"]
    kind = ["--accelerator-type", "v5litepod-16", "--runtime-version", "v2-alpha-tpuv5-lite", "--reserved"]
    assert create[5:] == [NAME, *WHERE, "--node-id", NAME, *kind]
    assert len(workers(place)) == 1


def test_a_worker_that_an_earlier_start_has_left_is_ended(place):
    """It holds the chips of its host; it is asked to save first."""
    executable(place / "capscale-left", "#!/bin/bash\ntrap 'exit 143' TERM\nwhile :; do sleep 0.01; done\n")
    with subprocess.Popen([place / "capscale-left"]) as left:
        threading.Thread(target=left.wait, daemon=True).start()  # or it would stay as a zombie
        try:
            (place / "host").mkdir()
            (place / "slice").write_text("READY\n")
            (place / "host" / "capscale.pid").write_text(f"{left.pid}\n")
            done = started(written("gcloud"))
        finally:
            left.kill()
    assert done.returncode == 0, done.stderr
    assert left.returncode == 143
    assert len(workers(place)) == 1
    assert int((place / "host" / "capscale.pid").read_text()) != left.pid
