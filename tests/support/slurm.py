"""A Slurm of one node on this machine, with a munge of its own: started for a test, and ended with it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.limits import LIMIT_S

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={place}/munge.sock,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=1
JobRequeue=1
KillWait=10
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=gpus Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""`cred_expire` is also how long a task that was queued again rests: two minutes by default."""


@dataclass(frozen=True)
class Cluster:
    """The running Slurm: its node, and the environment in which its commands find it."""

    node: str
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """Output of a command, such as squeue."""
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=self.environment, timeout=LIMIT_S
        ).stdout


def find(program: str) -> str | None:
    """Path of a program, which may lie where only root looks."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def until(holds: Callable[[], bool], reason: str, seconds: float = 120) -> None:
    """Waits for something to hold; fails with the reason."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, reason
        time.sleep(0.2)


@contextmanager
def slurm(place: Path) -> Iterator[Cluster]:
    """A cluster that keeps everything in `place`; skips the test where Slurm is not installed."""
    missing = [program for program in PROGRAMS if find(program) is None]
    if missing:
        pytest.skip(f"needs Slurm ({', '.join(missing)} not found): apt-get install slurm-wlm munge")
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool", "munge"):
        (place / name).mkdir(mode=0o700, parents=True)
    ports = [_free_port() for _ in range(2)]
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout.strip()
    (place / "slurm.conf").write_text(CONFIGURATION.format(host=host, user=user, place=place, ports=ports))
    gpus = (f"NodeName={host} Name=gpu File={file}" for file in ("/dev/null", "/dev/zero"))
    (place / "gres.conf").write_text("\n".join(gpus) + "\n")
    key = place / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    cluster = Cluster(host, os.environ | {"SLURM_CONF": str(place / "slurm.conf")})
    of_munge = {"socket": place / "munge.sock"} | {
        f"{name}-file": place / "munge" / name for name in ("key", "pid", "log", "seed")
    }
    with ExitStack() as stack:
        start = lambda *command: stack.enter_context(_daemon(list(command), cluster, place))  # noqa: E731
        start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in of_munge.items()))
        until((place / "munge.sock").exists, "munged does not start")
        start("slurmctld", "-D", "-i")
        start("slurmd", "-D")
        stack.callback(_cancel_all, cluster)
        until(lambda: "idle" in cluster.ask("sinfo", "--noheader", "--format=%T"), "the node does not come up")
        yield cluster


@contextmanager
def _daemon(command: list[str], cluster: Cluster, place: Path) -> Iterator[None]:
    """A daemon in the foreground, asked to end, and then made to."""
    program = find(command[0])
    assert program is not None
    with (
        open(place / f"{command[0]}.out", "w") as out,
        subprocess.Popen([program, *command[1:]], stdout=out, stderr=out, env=cluster.environment) as daemon,
    ):
        try:
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _cancel_all(cluster: Cluster) -> None:
    """Ends what is queued and running: nobody else has tasks in this cluster."""
    queue = lambda: cluster.ask("squeue", "--noheader", "--format=%A").split()  # noqa: E731
    if jobs := queue():
        cluster.ask("scancel", "--signal=KILL", "--full", *jobs)
        cluster.ask("scancel", *jobs)
    until(lambda: not queue(), "tasks do not end")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
