"""Kills one of two processes that train a run together, and goes on with half the devices, on a throttled store.

Two processes of four devices each, joined by an address, share the parameters of one run among the four and each batch
among all eight. They write to a server of `gs://` (fake-gcs-server) behind a proxy that takes its time, answers 429 to
a second write of an object within a second, resets connections and answers 503. One is killed with SIGKILL in the midst
of training; the other has to end by itself. Then one process of four devices goes on, to the loss of a run that nothing
has disturbed: one process of eight devices on a local disk. Devices are those that XLA makes of this machine's CPU.

    python scripts/lost_process.py
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from capscale.errors import TRY_AGAIN
from capscale.storage import quiet_clients
from capscale.sweep.on_ray import newest_checkpoint
from capscale.train.metrics import read_metrics

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))
proxy: Any = import_module("support.proxy")
stores: Any = import_module("support.stores")
tiny: Any = import_module("support.tiny")

COMMAND = "import sys; from capscale.cli import main; sys.exit(main())"
STEPS, EVERY, KILLED_FROM = 120, 5, 40
"""Of the run, of a chunk and its checkpoint, and of the checkpoint behind which a process is killed."""
TOLERANCE = 1e-5
"""Of the loss: sums over other numbers of devices are taken in other orders."""
ENDS = (TRY_AGAIN, -signal.SIGABRT)
"""Of the process that is left: ours where a collective fails, else that of JAX, whose heartbeat aborts it."""
LIMIT_S = 1800
EXPERIMENT = f"""
from dataclasses import replace
from support import tiny
from capscale.train.loop import LoopIntervals
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals({EVERY}, 0.0, background))

def runs(ladder, data):
    model = replace(tiny.MODEL, width=16, multiple_of=16)
    return [tiny.run(data=data, model=model, batch=8, tokens={STEPS} * 8 * 16)]
"""


def start(place: Path, text: str, out: str, devices: int, joined: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process that trains the run on so many devices, four of which share its parameters."""
    arguments = [
        "sweep",
        str(place / "mine.py"),
        "--text",
        text,
        "--out",
        out,
        "--mode",
        "mesh",
        "--fsdp",
        "4",
        *joined,
    ]
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # compiled soon rather than well
    )
    with (place / f"said-{time.monotonic_ns()}").open("w") as said:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], env=environment, stdout=said, stderr=said, text=True
        )


def two(place: Path, text: str, out: str) -> list[subprocess.Popen[str]]:
    """Two processes that train it together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = ("--coordinator", f"localhost:{port}", "--processes", "2", "--process-index")
    return [start(place, text, out, 4, (*address, str(index))) for index in range(2)]


def outcome(directory: epath.Path) -> dict[str, Any]:
    """The result of the run."""
    return json.loads((directory / "result.json").read_text())


def only_run(out: str) -> epath.Path | None:
    """Directory of the one run, once there is one."""
    return next((path.parent for path in epath.Path(out).glob("runs/*/run.json")), None)


def kill_in_the_midst(processes: list[subprocess.Popen[str]], out: str) -> int:
    """Kills the second process once a late enough checkpoint is complete; the newest checkpoint at that moment."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and all(process.poll() is None for process in processes):
        directory = only_run(out)
        if directory is not None and newest_checkpoint(directory) >= KILLED_FROM:
            processes[1].send_signal(signal.SIGKILL)
            return newest_checkpoint(directory)
        time.sleep(0.2)
    raise AssertionError(f"it ended before it was killed: {[process.poll() for process in processes]}")


def main() -> None:
    """Prints what happens; the exit status is 1 where it is not as promised."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    quiet_clients()
    trouble = proxy.Trouble(latency_s=0.01, per_object_s=1.0, resets=0.005, refusals=0.005)
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        stores.serving("gs") as server,
        proxy.behind_proxy(server, trouble) as slow,
        stores.visiting(slow, Path(folder), patch) as bucket,
    ):
        place = Path(folder)
        (place / "mine.py").write_text(EXPERIMENT)
        (place / "text.txt").write_bytes(tiny.text())
        server.put(bucket.name, "text.txt", tiny.text())
        calm = start(place, str(place / "text.txt"), str(place / "calm"), 8)
        assert calm.wait(LIMIT_S) == 0, said(place)
        undisturbed = only_run(str(place / "calm"))
        assert undisturbed is not None
        expected = outcome(undisturbed)["row"]["loss"]
        print(f"undisturbed, 1 process of 8 devices, local disk: {STEPS} steps, loss {expected:.7f}", flush=True)

        text, out = f"{bucket.url}/text.txt", f"{bucket.url}/out"
        processes = two(place, text, out)
        saved = kill_in_the_midst(processes, out)
        began = time.monotonic()
        status = processes[0].wait(LIMIT_S)
        waited, directory = time.monotonic() - began, only_run(out)
        assert directory is not None
        newest, seen = newest_checkpoint(directory), read_metrics(directory / "metrics.jsonl")[-1]["step"]
        print(f"2 processes of 4 devices: the second killed with SIGKILL behind the checkpoint of step {saved}")
        print(f"the first ended by itself {waited:.1f} s later, with status {status}; newest checkpoint: step {newest}")
        print(f"steps whose metrics were stored: {seen}", flush=True)

        again = TRY_AGAIN
        while again == TRY_AGAIN:  # as launch files do, on a store that refuses for too long
            again = start(place, text, out, 4).wait(LIMIT_S)
            print(f"1 process of 4 devices: status {again}", flush=True)
        assert again == 0, said(place)
        found = outcome(directory)
        loss, first, devices = found["row"]["loss"], found["timing"]["resumed_from_step"], found["timing"]["devices"]
        steps = [line["step"] for line in read_metrics(directory / "metrics.jsonl")]
    apart = abs(loss - expected) / expected
    print(f"it went on from step {first} on {devices} devices to loss {loss:.7f}, {apart:.1e} of it from the other")
    print(f"the store answered {json.dumps(dict(sorted(trouble.seen.items())))}")
    kept = status in ENDS and steps == list(range(EVERY, STEPS + 1, EVERY)) and first >= newest and apart <= TOLERANCE
    print("as promised" if kept else "NOT as promised")
    sys.exit(0 if kept else 1)


def said(place: Path) -> str:
    """Output of all processes so far."""
    return "\n".join(path.read_text() for path in sorted(place.glob("said-*")))


if __name__ == "__main__":
    main()
