"""Runs on TPU slices of a Ray cluster: hosts of one slice train a run together, and are lost and given back together.

The hosts are nodes on this machine that are marked as Ray marks a slice's; their processes are joined over Gloo.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from support import tiny
from support.limits import LIMIT_S

from capscale.sweep.on_ray import newest_checkpoint
from capscale.train.journal import read_journals
from capscale.train.lease import current_lease

ray: Any = pytest.importorskip("ray")
TESTS = Path(tiny.__file__).parents[1]
EXPERIMENT = """
from support import tiny
from capscale.train.loop import LoopIntervals
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(10, 0.0, background))

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, tokens=240 * 64) for seed in range(2)]
"""


def host(cluster, name, place):
    """A node that is a host of a slice of v4:2x2x2, as Ray marks it."""
    head = {"TPU-v4-16-head": 1} if place == 0 else {}
    labels = {"slice-name": name, "worker-id": str(place), "pod-type": "v4-16", "topology": "2x2x2"}
    return cluster.add_node(
        num_cpus=1,
        resources={"TPU": 4, name: 1} | head,
        labels={f"ray.io/tpu-{key}": value for key, value in labels.items()},
    )


def slice_of(pid, hosts):
    """Name of the slice on which a process works: it is a child of its node's raylet."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    raylets = {node.all_processes["raylet"][0].process.pid: name for (name, _), node in hosts.items()}
    return raylets[parent]


def sweep(place, out, environment, *options):
    code = "import sys; from capscale.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "sweep", "mine.py", "--text", "text.txt", "--out", out, *options]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=-1, stderr=-1, text=True)


def trained(out):
    """Losses of every run, by step, and that of its result."""
    return {
        path.parent.name: [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        + [json.loads((path.parent / "result.json").read_text())["row"]["loss"]]
        for path in out.glob("runs/*/metrics.jsonl")
    }


@pytest.mark.slow
def test_hosts_of_a_slice_train_together_and_are_lost_together(tmp_path, monkeypatch):
    """Two slices, two runs side by side. A process of one is killed, then a host of the other one's slice, for good."""
    from ray.cluster_utils import Cluster

    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    out, until = epath.Path(tmp_path) / "out", time.monotonic() + 900

    def wait_for(found):
        while not (seen := found()):
            assert together.poll() is None, together.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        return seen

    def both_saved():
        """Directories of the runs, once both have a checkpoint, with the process that leads each."""
        leases = {path: current_lease(path) for path in out.glob("runs/*") if newest_checkpoint(path)}
        return {path: lease["pid"] for path, lease in leases.items() if lease} if len(leases) == 2 else None

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        hosts = {(name, place): host(cluster, name, place) for name in ("left", "right") for place in range(2)}
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        with sweep(tmp_path, "out", environment, "--launcher", "ray", "--slice", "v4:2x2x2") as together:
            (killed, pid), (other, leader) = wait_for(both_saved).items()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: len(read_journals(killed)) == 2)
            assert not Path(f"/proc/{pid}").exists()
            assert len(read_journals(other)) == 1, "on a slice of its own, it is not disturbed"
            cluster.remove_node(hosts[slice_of(leader, hosts), 1], allow_graceful=False)
            said, err = together.communicate(timeout=LIMIT_S + 600)
        assert together.returncode == 0, err
        assert "2 of 2 results in out (2 trained now)" in said
    finally:
        cluster.shutdown()
    with sweep(tmp_path, "alone", os.environ, "--jobs", "1") as alone:
        said, err = alone.communicate(timeout=LIMIT_S + 300)
    assert alone.returncode == 0, err
    expected, found = trained(tmp_path / "alone"), trained(tmp_path / "out")
    assert found.keys() == expected.keys()
    for run_id, losses in expected.items():
        np.testing.assert_allclose(found[run_id], losses, rtol=1e-4)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("out/runs/*/result.json")]
    assert [result["timing"]["devices"] for result in results] == [2, 2]
    assert all(result["timing"]["resumed_from_step"] for result in results), "neither began anew"
    assert {len(read_journals(path)) for path in (killed, other)} == {2}
    assert not list(tmp_path.glob("out/runs/*/result.conflict.json"))
