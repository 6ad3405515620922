"""A sweep on a Ray cluster that is a head alone at first: its autoscaler adds nodes, and takes them away again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tiny
from support.limits import LIMIT_S
from support.ray_head import autoscaling_head, descendants

pytest.importorskip("ray")
TESTS = Path(tiny.__file__).parents[1]
EXPERIMENT = """
from support import tiny
from capscale.train.loop import LoopIntervals
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(10, 0.0, background))

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, tokens=steps * 64) for seed, steps in enumerate((20, 20, 150))]
"""
WORKER = {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2}


@pytest.mark.slow
def test_nodes_are_added_for_a_sweep_and_taken_away(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    code = "import sys; from capscale.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sweep", "mine.py", "--text", "text.txt", "--out", "out"]
    command += ["--launcher", "ray", "--device-kind", "gpu"]  # of which there are none yet
    with autoscaling_head(tmp_path, {"worker": WORKER | {"min_workers": 0}}) as (address, head):
        environment, until, seen = os.environ | {"RAY_ADDRESS": address}, time.monotonic() + 900, []

        def nodes():
            count = sum("raylet/raylet" in command for command in descendants(head).values())
            seen.extend([count] if seen[-1:] != [count] else [])
            return count

        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as sweep:
            while sweep.poll() is None and time.monotonic() < until:
                nodes()
                time.sleep(0.5)
            sweep.terminate()
            said, err = sweep.communicate(timeout=LIMIT_S)
        assert sweep.returncode == 0, said + err
        assert "waiting for a node with 1 GPU, 30 minutes at most: the cluster has 0 CPU now" in said
        assert "3 of 3 results in out (3 trained now)" in said
        assert max(seen) == 3, "the head and a node for each of two runs"
        while nodes() > 1:
            assert time.monotonic() < until
            time.sleep(0.5)
