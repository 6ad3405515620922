"""A sweep that is submitted to a Ray cluster as a job, by its launch file, stopped, and submitted again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath
from support import tiny
from support.launching import executable
from support.limits import LIMIT_S
from support.ray_head import RAY, head_that_takes_jobs

from capscale.cli import main
from capscale.sweep.launchers.job import job_name
from capscale.sweep.on_ray import newest_checkpoint
from capscale.train.journal import read_journals
from capscale.train.lease import current_lease

pytest.importorskip("ray")
TESTS = Path(tiny.__file__).parents[1]
SAVING_S = 8
"""Seconds that the worker takes to save when it is stopped: more than the three that Ray gives unless it is told."""
EXPERIMENT = f"""
import os, time
from support import tiny
from capscale.data.corpus import Corpus
from capscale.train.checkpoint import Checkpoints
from capscale.train.loop import LoopIntervals

LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(3, 1e9, background))
batches, save = Corpus.batches, Checkpoints.save

def slowly(self, *arguments, **options):
    time.sleep(0.2 * os.path.exists(os.environ["SLOWLY"]))
    return batches(self, *arguments, **options)

def late(self, step, state):
    time.sleep({SAVING_S} * os.path.exists(os.environ["SLOWLY"]))
    save(self, step, state)

Corpus.batches, Checkpoints.save = slowly, late

def runs(ladder, data):
    return [tiny.run(data=data, tokens=1500 * 64)]
"""


@pytest.mark.slow
def test_a_job_that_is_stopped_saves_and_goes_on_when_it_is_submitted_again(tmp_path, monkeypatch):
    """The worker, which Ray does not signal, hears of it by the sweep, and has no other checkpoint than this one."""
    pytest.importorskip("aiohttp_cors", reason="the dashboard of ray[default] takes jobs")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("mine.py").write_text(EXPERIMENT)
    Path("text.txt").write_bytes(tiny.text())
    (tmp_path / "bin").mkdir()
    code = "import sys; from capscale.cli import main; sys.exit(main())"
    for name, command in (("capscale", [sys.executable, "-c", f"'{code}'"]), ("ray", RAY)):
        executable(tmp_path / "bin" / name, f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    (tmp_path / "slowly").touch()
    for name, value in {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "JAX_PLATFORMS": "cpu",
        "RAY_worker_niceness": "0",
        "SLOWLY": str(tmp_path / "slowly"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out = epath.Path(tmp_path) / "out"
    options = ["mine.py", "--text", "text.txt", "--out", str(out), "--script", "launch.sh"]
    assert main(["launch", "ray", *options]) == 0
    job = job_name("mine", "nano", 1)

    def said(*command):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for(seen):
        until = time.monotonic() + LIMIT_S
        while not seen():
            assert time.monotonic() < until, said("ray", "job", "logs", job)
            time.sleep(0.2)

    with head_that_takes_jobs(tmp_path, cpus=1) as address:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
        said("bash", "launch.sh")
        wait_for(lambda: [path for path in out.glob("runs/*/metrics.jsonl") if path.read_text()])
        (directory,) = out.glob("runs/*")
        assert newest_checkpoint(directory) == 0
        assert "was stopped" in said("ray", "job", "stop", job)
        saved = newest_checkpoint(directory)
        assert saved > 0, said("ray", "job", "logs", job)
        assert [event["event"] for event in read_journals(directory)[0]] == ["start", "stopped"]
        lease = current_lease(directory)
        assert lease is not None
        assert lease["released"]
        (tmp_path / "slowly").unlink()
        said("bash", "launch.sh")
        wait_for((directory / "result.json").exists)
        wait_for(lambda: "succeeded" in said("ray", "job", "status", job))
    result = json.loads((directory / "result.json").read_text())
    assert result["timing"]["resumed_from_step"] == saved
    assert [event["event"] for event in read_journals(directory)[1]] == ["start", "done"]
