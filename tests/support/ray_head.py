"""Ray heads on this machine: one with an autoscaler, whose nodes are processes here, and one that takes jobs.

Each ends what it has started.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.limits import LIMIT_S

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
"""The command `ray` of this Python."""


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
    options = ["--num-cpus=0", f"--port={port}", f"--node-ip-address={host}"]
    options += [f"--autoscaling-config={place / 'autoscaling.yaml'}"]
    common = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with _head(place, options, common | environment) as pid:
        yield f"{host}:{port}", pid


@contextmanager
def head_that_takes_jobs(place: Path, cpus: int, **environment: str) -> Iterator[str]:
    """A head with so many cores and a dashboard; the dashboard's address, once it answers.

    Whoever submits a job must not be told of another cluster by RAY_ADDRESS.
    """
    port, dashboard = free_port(), free_port()
    options = [f"--num-cpus={cpus}", f"--port={port}", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
    with _head(place, options, environment) as pid:
        address, until = f"http://127.0.0.1:{dashboard}", time.monotonic() + LIMIT_S
        while not _answers(f"{address}/api/jobs/"):
            assert Path(f"/proc/{pid}").exists(), (place / "head.log").read_text()
            assert time.monotonic() < until, (place / "head.log").read_text()
            time.sleep(0.5)
        yield address


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def _head(place: Path, options: list[str], environment: dict[str, str]) -> Iterator[int]:
    """The process of a head; what it says goes to `head.log`."""
    files = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie there, whose names are of 107 bytes at most
    command = [*RAY, "start", "--head", "--block", f"--temp-dir={files}", *options]
    patient = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(LIMIT_S)}
    with (place / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | patient | environment, stdout=log, stderr=log)
    try:
        yield process.pid
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
