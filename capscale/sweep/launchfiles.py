"""Launch files for machines elsewhere, generated from a planned sweep: each starts `capscale run` or `capscale sweep`.

Every file is a bash script that takes `--dry-run`, which prints the commands instead of running them (Slurm's is handed
to sbatch, which has a `--test-only` of its own). Workers that are started twice do the work once, and a worker that is
preempted leaves a checkpoint: starting a script again is how to go on.
"""

import json
import shlex
from dataclasses import dataclass

from capscale.checks import check_whole
from capscale.errors import TRY_AGAIN, UserError
from capscale.sweep.slices import Slice

PREEMPTED = 143
"""Exit status of a worker after SIGTERM."""
LONGEST_NAME = 40
"""Letters of a job's name, index and all: the fewest that one of the clouds takes."""
STORES = {"gs://": "gcs", "s3://": "s3"}
"""Extras of capscale that paths need."""


@dataclass(frozen=True)
class Job:
    """Settings of a launch.

    Attributes:
      name: of the job, letters, digits and hyphens.
      arguments: of `capscale run`, but for --index.
      runs: how many there are.
      setup: command that makes `capscale` available on a fresh machine, in the directory of the project's files; None
        for `ready`'s own.
    """

    name: str
    arguments: tuple[str, ...]
    runs: int
    setup: str | None = None

    def __post_init__(self):
        check_whole(self, "runs", least=1)

    def ready(self, chips: str) -> str:
        """The command that makes `capscale` available; `chips` is the extra that brings JAX for them.

        By uv, which fetches a Python that is new enough where a machine has none: TPU VM images may bring 3.10.
        """
        stores = (STORES[scheme] for scheme in STORES if any(word.startswith(scheme) for word in self.arguments))
        install = "python3 -m uv tool install --force --reinstall-package capscale --python 3.12"
        return self.setup or f"python3 -m pip install uv && {install} '.[{','.join((chips, *stores))}]'"

    def one(self, index: str) -> str:
        """The command of one run; `index` may be a variable of the shell."""
        return f'{self.each()} --index "{index}"'

    def each(self, *more: str) -> str:
        """The command of one run, but for --index."""
        return f"capscale {shlex.join((*self.arguments, *more))}"

    def all(self) -> str:
        """The command that trains every run, each over all processes that were started with it."""
        return f"capscale {shlex.join(('sweep', *self.arguments[1:], '--mode', 'mesh', '--distributed'))}"


def slurm(job: Job, *, devices: int = 1, hours: int = 24, at_once: int | None = None) -> str:
    """A job array, one task a run: `sbatch FILE`. Two minutes ahead of its limit a task saves and is queued again."""
    limit = f"%{at_once}" if at_once else ""
    return f"""#!/usr/bin/env bash
#SBATCH --job-name={job.name}
#SBATCH --array=0-{job.runs - 1}{limit}
#SBATCH --nodes=1
#SBATCH --gpus={devices}
#SBATCH --time={hours}:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job.name}-%A_%a.log
set -uo pipefail

again() {{
  if [ "$1" -eq {PREEMPTED} ] || [ "$1" -eq {TRY_AGAIN} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
  fi
  exit "$1"
}}
# Stands ahead of the worker: a signal in between would end this script alone, and leave the worker to itself.
trap 'interrupted=yes; if [ -n "${{!-}}" ]; then kill -TERM "$!"; else again {PREEMPTED}; fi' TERM
{job.one("$SLURM_ARRAY_TASK_ID")} &
worker=$!
interrupted=yes
while [ "$interrupted" = yes ]; do  # a wait that a signal ends returns 143, whatever the worker ends with
  interrupted=no
  wait "$worker"
  status=$?
done
again "$status"
"""


_PYTHON = """\
# capscale needs Python 3.11, and fresh machines may have an older one: where --setup did not say how to install it, uv
# does, with a Python 3.12 of its own."""
_INSTALLED = 'PATH="$HOME/.local/bin:$PATH"'
"""Where uv and `pip install --user` put `capscale`; no shell that was not logged in to looks there."""

_DRY_RUN = """run() {
  if [ "$dry_run" = yes ]; then printf '%q ' "$@"; echo; else "$@"; fi
}
dry_run=no
if [ "${1:-}" = --dry-run ]; then dry_run=yes; fi
"""


def gcloud(job: Job, slice_: Slice, *, zone: str, spot: bool = True) -> str:
    """A TPU VM slice: made if it is not there, given the project's files, and started on all of its hosts."""
    return f"""#!/usr/bin/env bash
# Trains {job.name} on a TPU VM slice; start it in the project's directory, and again after a preemption.
{_PYTHON}
set -euo pipefail
{_DRY_RUN}
name={job.name}
zone={shlex.quote(zone)}

state=$(gcloud compute tpus tpu-vm describe "$name" --zone "$zone" --format 'value(state)' 2>/dev/null) || state=none
case "$state" in
PREEMPTED | TERMINATED)  # what is left of it does nothing but hold the name
  run gcloud compute tpus tpu-vm delete "$name" --zone "$zone" --quiet
  state=none
  ;;
esac
if [ "$state" = none ]; then
  run gcloud compute tpus tpu-vm create "$name" --zone "$zone" \\
    --accelerator-type {accelerator_type(slice_)} --version {_RUNTIMES[slice_.generation]}{" --spot" if spot else ""}
fi
run gcloud compute tpus tpu-vm scp --recurse . "$name:capscale" --zone "$zone" --worker=all
run gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \\
  --command {shlex.quote(f"cd capscale && {job.ready('tpu')}")}
run gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \\
  --command {shlex.quote(f"cd capscale && {_INSTALLED} {job.all()}")}
"""


def xpk(job: Job, slice_: Slice, *, zone: str, cluster: str, image: str) -> str:
    """A workload on a GKE cluster through xpk, one a run; each starts on all hosts of its slice."""
    command = shlex.quote(job.each("--mode", "mesh", "--distributed"))
    return f"""#!/usr/bin/env bash
# Trains {job.name} on the cluster {cluster}: a workload a run, queued by the cluster.
set -euo pipefail
{_DRY_RUN}
for index in $(seq 0 {job.runs - 1}); do
  command={command}
  run xpk workload create --workload "{job.name}-$index" --cluster {shlex.quote(cluster)} --zone {shlex.quote(zone)} \\
    --tpu-type {accelerator_type(slice_)} --num-slices 1 --max-restarts 100 --restart-on-exit-codes {TRY_AGAIN} \\
    --docker-image {shlex.quote(image)} --command "$command --index $index"
done
"""


def skypilot(job: Job, accelerators: str, *, spot: bool = True) -> str:
    """Managed jobs of SkyPilot, one a run, on whichever cloud has the accelerator; preempted ones are recovered."""
    chips = "tpu" if "tpu" in accelerators.lower() else "cuda"
    task = {
        "name": job.name,
        "resources": {
            "accelerators": accelerators,
            "use_spot": spot,
            "job_recovery": {"recover_on_exit_codes": [TRY_AGAIN, PREEMPTED]},
        },
        "workdir": ".",
        "envs": {"CAPSCALE_INDEX": ""},
        "setup": job.ready(chips),
        "run": f"{_INSTALLED} {job.one('$CAPSCALE_INDEX')}",
    }
    # JSON is YAML, quotes and all.
    return f"""#!/usr/bin/env bash
# Trains {job.name} with SkyPilot: a managed job a run; start it in the project's directory.
{_PYTHON}
set -euo pipefail
{_DRY_RUN}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT  # sky has read the task when it returns
task=$folder/task.yaml
cat >"$task" <<'TASK'
{json.dumps(task, indent=1)}
TASK
if [ "$dry_run" = yes ]; then cat "$task"; fi
for index in $(seq 0 {job.runs - 1}); do
  run sky jobs launch --yes --detach-run --name "{job.name}-$index" --env "CAPSCALE_INDEX=$index" "$task"
done
"""


_TYPES = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
"""Cloud TPU's names: a prefix, and how many units it counts to a chip (v4 and v5p count cores)."""

_RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""Software versions for JAX: cloud.google.com/tpu/docs/runtimes."""


def accelerator_type(slice_: Slice) -> str:
    """Cloud TPU's name of a slice: v5e:4x4 is v5litepod-16, v4:2x2x1 is v4-8."""
    prefix, units = _TYPES[slice_.generation]
    return f"{prefix}-{slice_.chips * units}"


def job_name(experiment: str, ladder: str, runs: int) -> str:
    """`capscale-paper-capacity-paper`; `UserError` where that and the index of a run are too long for the clouds."""
    words = "".join(
        letter if letter.isascii() and letter.isalnum() else "-" for letter in f"{experiment}-{ladder}".lower()
    )
    name = f"capscale-{'-'.join(filter(None, words.split('-')))}"
    last = f"{name}-{runs - 1}"
    if len(last) > LONGEST_NAME:
        raise UserError(
            f"job name {last!r} has over {LONGEST_NAME} letters, more than the clouds take; rename the experiment file"
        )
    return name
