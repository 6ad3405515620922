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


def node_type(most, labels=None, **resources):
    """Nodes that the autoscaler may add, so many at most, of what the cluster is said to be."""
    resources |= {"CPU": 1, "object_store_memory": 10**8}
    more = {"node_config": {}, "min_workers": 0, "max_workers": most}
    return {"resources": resources, "labels": labels or {}, **more}


def host(place):
    """The host of a slice of v4:2x2x2 with that place, as Ray marks it; the cluster may grow by one slice."""
    labels = {"slice-name": "added", "worker-id": str(place), "pod-type": "v4-16", "topology": "2x2x2"}
    head = {"TPU-v4-16-head": 1} if place == 0 else {}
    return node_type(1, {f"ray.io/tpu-{key}": value for key, value in labels.items()}, TPU=4, **head)


GROWING = {
    "gpus": (["--device-kind", "gpu"], {"worker": node_type(2, GPU=1)}, "a node with 1 GPU"),
    "slices": (
        ["--slice", "v4:2x2x2"],
        {"first": host(0), "second": host(1)},
        "a TPU slice v4-16 of 2 hosts with 4 chips each",
    ),
}
"""Options of runs that ask for what is not there yet, the nodes that may be added, and words for what is awaited."""


@pytest.mark.slow
@pytest.mark.parametrize("what", GROWING)
def test_nodes_are_added_for_a_sweep_and_taken_away(what, tmp_path, monkeypatch):
    asked, node_types, awaited = GROWING[what]
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    code = "import sys; from capscale.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sweep", "mine.py", "--text", "text.txt", "--out", "out"]
    command += ["--launcher", "ray", *asked]
    with autoscaling_head(tmp_path, node_types) as (address, head):
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
        assert f"waiting for {awaited}, 30 minutes at most: the cluster has 0 CPU now" in said
        assert "3 of 3 results in out (3 trained now)" in said
        assert max(seen) == 3, "the head, and a node for each of two runs or for each host of the slice"
        while nodes() > 1:
            assert time.monotonic() < until
            time.sleep(0.5)
