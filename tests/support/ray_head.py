"""A Ray head on this machine with an autoscaler, whose nodes are processes here; and it ends what it has started."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.limits import LIMIT_S

RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def descendants(pid: int) -> dict[int, str]:
    """Commands of the processes that one has started, and these, by their ids."""
    parents, commands = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    found, seen = {}, [pid]
    while seen:
        found |= {child: commands[child] for child, parent in parents.items() if parent == seen[0]}
        seen = [child for child, parent in parents.items() if parent == seen[0]] + seen[1:]
    return found


@contextmanager
def autoscaling_head(place: Path, node_types: dict[str, Any], **environment: str) -> Iterator[tuple[str, int]]:
    """A head without devices of its own, whose autoscaler adds nodes of these types; its address and process.

    Ray's `AutoscalingCluster` does the same, but reads a file that wheels lack, and ends every Ray of a machine.
    """
    from ray.util import get_node_ip_address

    host, port = get_node_ip_address(), free_port()
    files = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie there, whose names are of 107 bytes at most
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config: dict[str, Any] = {
        "cluster_name": "here",
        "max_workers": 8,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{host}:{port}",
        },
        "available_node_types": {"ray.head.default": head, **node_types},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
    }
    steps = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config |= {f"{step}_commands": [] for step in steps} | {key: {} for key in ("auth", "docker", "file_mounts")}
    config |= {key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    config |= {"file_mounts_sync_continuously": False}
    (place / "autoscaling.yaml").write_text(json.dumps(config))
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=0", f"--port={port}", f"--node-ip-address={host}"]
    command += [f"--autoscaling-config={place / 'autoscaling.yaml'}", f"--temp-dir={files}"]
    common = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with (place / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | common | environment, stdout=log, stderr=log)
    try:
        yield f"{host}:{port}", process.pid
    finally:
        started = descendants(process.pid)
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        for pid in started:  # nodes that the autoscaler has started outlive the head
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(files, ignore_errors=True)
