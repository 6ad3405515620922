"""capscale launch: scripts that start a sweep on machines elsewhere."""

import dataclasses
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from capscale.cli.device_options import DeviceKind, check_devices
from capscale.cli.memory_options import HowMemory, device_bytes, memory_of
from capscale.cli.selecting import LadderName, Selecting
from capscale.cli.training import Training, saving_of
from capscale.errors import UserError
from capscale.sweep.launchers.job import Capacity
from capscale.train.memory import Gather

if TYPE_CHECKING:
    from capscale.sweep.launchers.job import Job

Where = Literal["slurm", "gcloud", "xpk", "jobset", "skypilot", "ray"]


@dataclass(kw_only=True)
class Launch(Selecting):
    """Write a script that starts a sweep on Slurm, Cloud TPU VMs, GKE (xpk, JobSet), Ray, or a cloud through SkyPilot.

    Start it with bash, and again whenever you like: it submits the runs that have no result and are not under way.
    Paths and names in the script are those that the workers will see. A worker started twice trains nothing twice.

    Examples:
      capscale launch slurm paper_capacity --ladder paper --text /data/c4 --out /shared/paper --script launch.sh
      capscale launch gcloud paper_capacity --ladder paper --text gs://b/c4 --out gs://b/paper --topology v5e:4x4 \\
        --zone us-central1-a --vocabulary 32000 --script launch.sh && bash launch.sh --dry-run
    """

    where: Annotated[Where, tyro.conf.Positional]
    """Who starts the workers."""
    experiment: Annotated[str, tyro.conf.Positional]
    """Name of an experiment, or the path of a .py file as the workers see it."""
    out: str
    """Directory of the sweep, on storage that all workers share."""
    ladder: LadderName = "nano"
    text: str | None = None
    """Text file or directory of token shards, as the workers see it."""
    vocabulary: int | None = None
    """Symbols of the text, where it cannot be read from here."""
    fsdp: int = 1
    """Devices that share one copy of the parameters."""
    microbatches: int = 1
    """Parts of a batch that are done one after the other, to save memory."""
    remat: bool = False
    """Compute each layer anew in the backward pass, to save memory."""
    gather: Gather = "layer"
    """With --fsdp: send weights for each layer of each micro-batch, or once a step, which takes the memory of all."""
    unroll: bool = False
    """Write all layers out in place of a loop over one: faster steps, which take several times as long to compile."""
    memory: HowMemory = "given"
    """By auto workers use, for each program, the setting that `capscale preflight --memory auto --out` has kept in the
    sweep's directory, or else one that fits, which they keep there."""
    device_memory: float | None = None
    """With --memory auto: GB (10^9 bytes) of a device, if not what it tells itself."""
    checkpoint_interval: float | None = None
    """Seconds between checkpoints; if not given, what their own time and --mtbf make of them."""
    mtbf: float = Training.mtbf
    """Hours between failures of the machines, preemptions too, that this assumes."""
    stop_losers: bool = False
    """Stop runs early that cannot win any more: see `capscale sweep --help`."""
    script: Path | None = None
    """File to write; printed if not given."""
    runs_per_task: int = 1
    """Slurm, xpk, JobSet, SkyPilot: runs of one size that a task trains, small ones together: on accelerators at once
    where they differ in seed and learning rate only, otherwise one after the other."""
    setup: str | None = None
    """Slurm: command ahead of the worker, such as one that loads modules. gcloud, SkyPilot: command that makes capscale
    available on a fresh machine, which may have a Python older than 3.11; if not given, uv installs it with a Python
    3.12 of its own, JAX for the accelerators, and what gs:// or s3:// need."""
    mode: Literal["auto", "processes"] = "auto"
    """How the runs of a task use its devices. By processes they share its one host, each with --devices-per-run of its
    GPUs or TPU chips; by auto each has all of them, unless --runs-per-task trains some at once. Not for Ray, where runs
    share hosts by themselves."""
    devices_per_run: int = 1
    """With --mode processes: GPUs or TPU chips of a run. Slurm without it: GPUs of a task. Ray: accelerators of one
    host that a run gets."""
    host_devices: int | None = None
    """Slurm, with --mode processes: GPUs of a task, all of one host, which its runs share."""
    device_kind: DeviceKind = "auto"
    """Ray: what --devices-per-run counts; see `capscale sweep --help`."""
    hours: int = 24
    """Slurm: time limit of a task; it is queued again when that is over."""
    at_once: int | None = None
    """Slurm: most tasks that run at once."""
    account: str | None = None
    """Slurm: the account that is charged."""
    partition: str | None = None
    """Slurm: the partition whose machines run it."""
    cpus: int | None = None
    """Slurm: processor cores of a task; compiling uses several."""
    host_memory: str | None = None
    """Slurm: memory of a task's host, such as 64G."""
    topology: str | None = None
    """gcloud, xpk, JobSet: the TPU slice; v5e:4x4 if not given. Ray: that which trains each run, if any."""
    slices: int = 1
    """xpk, JobSet: slices that train each run together, each a part of every batch."""
    zone: str | None = None
    """gcloud, xpk: the zone."""
    capacity: Capacity = "spot"
    """gcloud, SkyPilot: machines that may be taken away, that stay, or (gcloud) of a reservation."""
    queued: bool = False
    """gcloud: ask for the slice by a queued resource, which waits for capacity."""
    cluster: str | None = None
    """xpk: the cluster, whose node pools say how machines are bought."""
    image: str | None = None
    """xpk, JobSet: a Docker image in which `capscale` is installed."""
    queue: str | None = None
    """JobSet: a LocalQueue of Kueue; the cluster's node pools say how machines are bought."""
    accelerators: str = "H100:1"
    """SkyPilot: accelerators of a node."""
    nodes: int = 1
    """SkyPilot: nodes that train each run together."""

    def __call__(self) -> int:
        """Writes or prints the script."""
        from capscale.cli.preflight import plan_for
        from capscale.files import writing
        from capscale.storage import check_checkpoints
        from capscale.sweep.launchers.job import Job, job_name
        from capscale.sweep.losers import trials

        self._check()
        check_checkpoints(self.out)
        saving_of(self.checkpoint_interval, self.mtbf)
        planned = plan_for(self, self.text, self.vocabulary)
        runs = len(planned.runs)
        if self.stop_losers:
            trials(planned.runs)  # which there must be
        about = (self.experiment, "--out", self.out, "--ladder", self.ladder)
        job = Job(
            name=job_name(planned.experiment, planned.ladder.name, runs),
            arguments=("run", *about, *self._training(), *self.selecting),
            missing=(*about, *self.selecting, *(["--stop-losers"] if self.stop_losers else [])),
            runs=runs,
            out=self.out,
            per_task=self.runs_per_task,
            shared=self.devices_per_run if self.mode == "processes" else None,
            setup=self.setup,
        )
        self._check_shared()
        script = self._script(job)
        if self.script is None:
            print(script, end="")
        else:
            with writing(self.script):
                self.script.write_text(script)
                self.script.chmod(self.script.stat().st_mode | stat.S_IXUSR)
            print(f"{self.script}: {runs} runs")
        return 0

    def _script(self, job: "Job") -> str:
        from capscale.sweep.launchers import gcloud, jobset, ray_job, skypilot, slurm, xpk
        from capscale.sweep.slices import find_slice

        if self.where == "slurm":
            asked = slurm.Asked(
                devices=self.host_devices or self.devices_per_run,
                hours=self.hours,
                at_once=self.at_once,
                cpus=self.cpus,
                memory=self.host_memory,
                account=self.account,
                partition=self.partition,
            )
            return slurm.slurm(job, asked)
        if self.where == "skypilot":
            if self.capacity == "reserved":
                raise UserError(
                    "--capacity reserved: SkyPilot takes reservations from its own configuration, and uses them first; "
                    "give --capacity on-demand"
                )
            return skypilot.skypilot(job, self.accelerators, spot=self.capacity == "spot", nodes=self.nodes)
        if self.where == "ray":
            check_devices(self.topology, self.devices_per_run, self.device_kind)
            slice_ = ["--slice", self.topology] if self.topology else []
            given = {"--devices-per-run": self.devices_per_run, "--device-kind": self.device_kind}
            return ray_job.ray_job(job, *(slice_ or [str(word) for option in given.items() for word in option]))
        slice_ = find_slice(self.topology or "v5e:4x4")
        if self.where == "jobset":
            return jobset.jobset(job, slice_, image=self._named("image"), queue=self.queue, slices=self.slices)
        zone = self._named("zone")
        if self.where == "gcloud":
            return gcloud.gcloud(job, slice_, zone=zone, capacity=self.capacity, queued=self.queued)
        cluster, image = self._named("cluster"), self._named("image")
        return xpk.xpk(job, slice_, zone=zone, cluster=cluster, image=image, slices=self.slices)

    def _training(self) -> list[str]:
        """Options of the workers that say how they train."""
        text = [] if self.text is None else ["--text", self.text]
        fsdp = ["--fsdp", str(self.fsdp)] if self.fsdp > 1 else []
        parts = ["--microbatches", str(self.microbatches)] if self.microbatches > 1 else []
        gather = ["--gather", self.gather] if memory_of(self).gather != "layer" else []
        memory = [*fsdp, *parts, *gather, *(f"--{name}" for name in ("remat", "unroll") if getattr(self, name))]
        memory += ["--memory", "auto"] if self.memory == "auto" else []
        if device_bytes(self, self.device_memory):
            memory += ["--device-memory", str(self.device_memory)]
        every = [] if self.checkpoint_interval is None else ["--checkpoint-interval", str(self.checkpoint_interval)]
        every += ["--stop-losers"] if self.stop_losers else []
        return [*text, *memory, *every, *(["--mtbf", str(self.mtbf)] if self.mtbf != Training.mtbf else [])]

    def _check(self) -> None:
        """Raises `UserError` for options that are out of range, or of another target."""
        for name in (
            "fsdp",
            "microbatches",
            "runs_per_task",
            "devices_per_run",
            "hours",
            "at_once",
            "cpus",
            "nodes",
            "slices",
            "host_devices",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{_flag(name)} {value} must be at least 1")
        for name, targets in _OF.items():
            value: Any = getattr(self, name)
            if value != _DEFAULTS[name] and self.where not in targets:
                raise UserError(f"{_flag(name)} is for {_listed(targets)}, not for {self.where}; drop it")

    def _check_shared(self) -> None:
        """Raises `UserError` for a host whose devices the runs of a task cannot share."""
        if self.mode != "processes":
            if self.host_devices is not None:
                raise UserError(
                    f"--host-devices {self.host_devices} is for --mode processes; drop it, or give that too"
                )
            if self.devices_per_run != 1 and self.where not in ("slurm", "ray"):
                raise UserError(f"--devices-per-run of launch {self.where} is for --mode processes; give that too")
            return
        from capscale.sweep.launchers.cloud_tpu import CHIPS_A_HOST
        from capscale.sweep.launchers.shared_host import check_shared, of_gpus, of_skypilot, of_slice
        from capscale.sweep.slices import find_slice

        if self.where == "slurm":
            host = of_gpus(self.host_devices)
        elif self.where == "skypilot":
            host = of_skypilot(self.accelerators, self.nodes)
        else:
            slice_ = find_slice(self.topology or "v5e:4x4", self.slices)
            host = of_slice(slice_, None if self.where == "gcloud" else CHIPS_A_HOST)
        check_shared(host, self.devices_per_run, None if self.where == "gcloud" else self.runs_per_task)

    def _named(self, field: str) -> str:
        value = getattr(self, field)
        if value is None:
            raise UserError(f"launch {self.where} needs --{field}")
        return value


def _listed(words: tuple[str, ...]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_OF: dict[str, tuple[Where, ...]] = {
    "runs_per_task": ("slurm", "xpk", "jobset", "skypilot"),
    "setup": ("slurm", "gcloud", "skypilot"),
    "mode": ("slurm", "gcloud", "xpk", "jobset", "skypilot"),
    "devices_per_run": ("slurm", "gcloud", "xpk", "jobset", "skypilot", "ray"),
    "host_devices": ("slurm",),
    "device_kind": ("ray",),
    **dict.fromkeys(("hours", "at_once", "account", "partition", "cpus", "host_memory"), ("slurm",)),
    "topology": ("gcloud", "xpk", "jobset", "ray"),
    "zone": ("gcloud", "xpk"),
    "slices": ("xpk", "jobset"),
    "capacity": ("gcloud", "skypilot"),
    "queued": ("gcloud",),
    "cluster": ("xpk",),
    "image": ("xpk", "jobset"),
    "queue": ("jobset",),
    **dict.fromkeys(("accelerators", "nodes"), ("skypilot",)),
}
"""Options that only some targets have."""
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Launch)}
assert all(set(targets) <= set(get_args(Where)) for targets in _OF.values())
