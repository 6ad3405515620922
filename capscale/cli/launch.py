"""capscale launch: scripts that start a sweep on machines elsewhere."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from capscale.cli.selecting import LadderName, Selecting
from capscale.cli.training import Training, memory_of, saving_of
from capscale.errors import UserError
from capscale.train.memory import Gather


@dataclass(kw_only=True)
class Launch(Selecting):
    """Write a script that starts a sweep on Slurm, Cloud TPU VMs, GKE through xpk, or any cloud through SkyPilot.

    Paths and names in the script are those that the workers will see. A worker started twice trains nothing twice.

    Examples:
      capscale launch slurm paper_capacity --ladder paper --text /data/c4 --out /shared/paper > sweep.sbatch
      capscale launch gcloud paper_capacity --ladder paper --text gs://b/c4 --out gs://b/paper --topology v5e:4x4 \\
        --zone us-central1-a --vocabulary 32000 --script launch.sh && bash launch.sh --dry-run
    """

    where: Annotated[Literal["slurm", "gcloud", "xpk", "skypilot"], tyro.conf.Positional]
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
    checkpoint_interval: float | None = None
    """Seconds between checkpoints; if not given, what their own time and --mtbf make of them."""
    mtbf: float = Training.mtbf
    """Hours between failures of the machines, preemptions too, that this assumes."""
    script: Path | None = None
    """File to write; printed if not given."""
    setup: str | None = None
    """gcloud, SkyPilot: command that makes capscale available on a fresh machine, which may have a Python older than
    3.11. If not given, uv installs it with a Python 3.12 of its own, JAX for the accelerators, and what gs:// or s3://
    need."""
    devices_per_run: int = 1
    """Slurm: GPUs a run."""
    hours: int = 24
    """Slurm: time limit of a task; it is queued again when that is over."""
    at_once: int | None = None
    """Slurm: most tasks that run at once."""
    topology: str = "v5e:4x4"
    """gcloud, xpk: the TPU slice."""
    zone: str | None = None
    """gcloud, xpk: the zone."""
    cluster: str | None = None
    """xpk: the cluster."""
    image: str | None = None
    """xpk: a Docker image in which `capscale` is installed."""
    accelerators: str = "H100:1"
    """SkyPilot: accelerators of a run."""

    def __call__(self) -> int:
        """Writes or prints the script."""
        from capscale.cli.preflight import plan_for
        from capscale.files import writing
        from capscale.storage import check_checkpoints
        from capscale.sweep import launchfiles
        from capscale.sweep.slices import find_slice

        for name in ("fsdp", "microbatches", "devices_per_run", "hours", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")
        check_checkpoints(self.out)
        saving_of(self.checkpoint_interval, self.mtbf)
        planned = plan_for(self, self.text, self.vocabulary)
        text = [] if self.text is None else ["--text", self.text]
        fsdp = ["--fsdp", str(self.fsdp)] if self.fsdp > 1 else []
        parts = ["--microbatches", str(self.microbatches)] if self.microbatches > 1 else []
        gather = ["--gather", self.gather] if memory_of(self).gather != "layer" else []
        memory = [*fsdp, *parts, *gather, *(["--remat"] if self.remat else [])]
        every = [] if self.checkpoint_interval is None else ["--checkpoint-interval", str(self.checkpoint_interval)]
        saving = [*every, *(["--mtbf", str(self.mtbf)] if self.mtbf != Training.mtbf else [])]
        arguments = (
            "run",
            self.experiment,
            "--out",
            self.out,
            "--ladder",
            self.ladder,
            *text,
            *memory,
            *saving,
            *self.selecting,
        )
        job = launchfiles.Job(
            launchfiles.job_name(planned.experiment, planned.ladder.name, len(planned.runs)),
            arguments,
            len(planned.runs),
            self.setup,
        )
        if self.where == "slurm":
            script = launchfiles.slurm(job, devices=self.devices_per_run, hours=self.hours, at_once=self.at_once)
        elif self.where == "gcloud":
            script = launchfiles.gcloud(job, find_slice(self.topology), zone=self._named("zone"))
        elif self.where == "xpk":
            script = launchfiles.xpk(
                job,
                find_slice(self.topology),
                zone=self._named("zone"),
                cluster=self._named("cluster"),
                image=self._named("image"),
            )
        else:
            script = launchfiles.skypilot(job, self.accelerators)
        if self.script is None:
            print(script, end="")
        else:
            with writing(self.script):
                self.script.write_text(script)
                self.script.chmod(self.script.stat().st_mode | stat.S_IXUSR)
            print(f"{self.script}: {len(planned.runs)} runs")
        return 0

    def _named(self, field: str) -> str:
        value = getattr(self, field)
        if value is None:
            raise UserError(f"launch {self.where} needs --{field}")
        return value
