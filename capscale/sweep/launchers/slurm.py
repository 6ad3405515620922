"""Launch file for Slurm: a job array of what is missing, each task of which queues itself again where that helps."""

from dataclasses import dataclass

from capscale.checks import check_whole
from capscale.errors import TRY_AGAIN
from capscale.sweep.launchers.job import DRY_RUN, PREEMPTED, Job


@dataclass(frozen=True)
class Asked:
    """Resources that a task asks Slurm for; those that are None are left to the cluster.

    Attributes:
      devices: GPUs.
      hours: time limit of a task, which is queued again when that is over.
      at_once: most tasks that run at once.
      cpus: processor cores.
      memory: of the host, in Slurm's words, such as 64G.
      account, partition: who pays, and which machines.
    """

    devices: int = 1
    hours: int = 24
    at_once: int | None = None
    cpus: int | None = None
    memory: str | None = None
    account: str | None = None
    partition: str | None = None

    def __post_init__(self):
        check_whole(self, "devices", "hours", least=1)
        check_whole(self, "at_once", "cpus", least=1, optional=True)

    @property
    def lines(self) -> str:
        """The options that sbatch reads at the head of a script."""
        given = {
            "gpus": self.devices,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "account": self.account,
            "partition": self.partition,
            "time": f"{self.hours}:00:00",
        }
        return "\n".join(f"#SBATCH --{name}={value}" for name, value in given.items() if value is not None)


def slurm(job: Job, asked: Asked | None = None) -> str:
    """A script that submits itself as an array of tasks. Two minutes ahead of its limit a task saves."""
    asked = asked or Asked()
    limit = f"%{asked.at_once}" if asked.at_once else ""
    return f"""#!/usr/bin/env bash
# Trains {job.name} on Slurm: `bash FILE` submits the runs that have no result and are not queued yet, and again later.
#SBATCH --job-name={job.name}
#SBATCH --nodes=1
{asked.lines}
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={job.name}-%A_%a.log
set -uo pipefail

if [ "${{1:-}}" != task ]; then  # whoever submits; sbatch starts the tasks, which are named by their first run
{_indented(DRY_RUN + job.tasks)}
  queued=''
  if [ "$dry_run" = no ]; then
    queued=$(squeue --me --name={job.name} --array --noheader --format=%K) || exit
  fi
  new=()
  while read -r first rest; do
    if grep -qx "$first" <<<"$queued"; then continue; fi
    new+=("$first${{rest:+ $rest}}")
  done <<<"$tasks"
  if [ ${{#new[@]}} = 0 ]; then
    echo "{job.name}: every run that is missing is queued already"
    exit 0
  fi
  array=$(IFS=,; names=("${{new[@]%% *}}"); echo "${{names[*]}}")
  run sbatch --array="$array{limit}" "$0" task "${{new[@]}}"
  exit
fi

again() {{
  if [ "$1" -eq {PREEMPTED} ] || [ "$1" -eq {TRY_AGAIN} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
  fi
  exit "$1"
}}
# Stands ahead of the worker: a signal in between would end this script alone, and leave the worker to itself.
trap 'interrupted=yes; if [ -n "${{!-}}" ]; then kill -TERM "$!"; else again {PREEMPTED}; fi' TERM
indices=()
for task in "${{@:2}}"; do
  if [ "${{task%% *}}" = "$SLURM_ARRAY_TASK_ID" ]; then read -ra indices <<<"$task"; fi
done
{f"{job.setup} || exit" if job.setup else ":"}
{job.task()} "${{indices[@]}}" &
worker=$!
interrupted=yes
while [ "$interrupted" = yes ]; do  # a wait that a signal ends returns 143, whatever the worker ends with
  interrupted=no
  wait "$worker"
  status=$?
done
again "$status"
"""


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in lines.rstrip().split("\n"))
