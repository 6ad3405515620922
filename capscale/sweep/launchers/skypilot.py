"""Launch file for SkyPilot: a managed job a task, on whichever cloud has the accelerators."""

import json
import re

from capscale.errors import TRY_AGAIN
from capscale.sweep.launchers.cloud_tpu import RUNTIMES, UNITS
from capscale.sweep.launchers.job import ABORTED, DRY_RUN, INSTALLED, PREEMPTED, PYTHON, Job

_GENERATIONS = {"v4": "v4", "v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e"}
"""Our names of TPUs by Cloud TPU's, for their software: SkyPilot's own choice for v5litepod is that of v5p."""
PORT = 8482
"""Port of the first node on which the others find it: JAX's own on Cloud TPU."""


def skypilot(job: Job, accelerators: str, *, spot: bool = True, nodes: int = 1) -> str:
    """Managed jobs of SkyPilot; preempted ones are recovered. A pod, or several nodes, train each run together."""
    chips = "tpu" if "tpu" in accelerators.lower() else "cuda"
    generation = _GENERATIONS.get(_tpu(accelerators)[0])
    runtime = {} if generation is None else {"accelerator_args": {"runtime_version": RUNTIMES[generation]}}
    task = {
        "name": job.name,
        "resources": {
            "accelerators": accelerators,
            **runtime,
            "use_spot": spot,
            "job_recovery": {"recover_on_exit_codes": [TRY_AGAIN, ABORTED, PREEMPTED]},
        },
        "num_nodes": nodes,
        "envs": {"CAPSCALE_INDEX": ""},
        "setup": job.ready(chips),
        "run": f"{INSTALLED} {_worker(job, accelerators, nodes)} $CAPSCALE_INDEX",
    }
    # JSON is YAML, quotes and all.
    return f"""#!/usr/bin/env bash
# Trains {job.name} with SkyPilot: a managed job a task; start it in the project's directory.
{PYTHON}
set -uo pipefail
{DRY_RUN}
{job.tasks}
folder=$(mktemp -d) || exit
trap 'rm -rf "$folder"' EXIT  # sky has read and sent what is in it when it returns
task=$folder/task.yaml
cat >"$task" <<'TASK'
{json.dumps(task, indent=1)}
TASK
mkdir "$folder/files"
tar -c {job.excluded} . | tar -x -C "$folder/files" || [ $? = 1 ] || exit  # 1: a file grew meanwhile, as logs do
queued=''
if [ "$dry_run" = yes ]; then
  cat "$task"
else
  queued=$(sky jobs queue --skip-finished --all --output json </dev/null) || exit
fi
status=0
while read -r first rest; do
  name={job.name}-$first
  if grep -qF "\\"$name\\"" <<<"$queued"; then
    echo "$name is under way"
    continue
  fi
  if ! run sky jobs launch --yes --detach-run --name "$name" --workdir "$folder/files" \\
    --env "CAPSCALE_INDEX=$first${{rest:+ $rest}}" "$task" </dev/null; then
    echo "$name was not submitted; start this script again" >&2
    status={TRY_AGAIN}
  fi
done <<<"$tasks"
exit "$status"
"""


def is_pod(accelerators: str) -> bool:
    """Whether a TPU of Cloud TPU's name, such as tpu-v5litepod-16, has several hosts: more than 8 units."""
    return _tpu(accelerators)[1] > 8


def chips_of(accelerators: str) -> int | None:
    """Chips of a TPU of Cloud TPU's name: 4 of tpu-v4-8; None for other accelerators."""
    kind, units = _tpu(accelerators)
    return units // UNITS[kind] if kind in UNITS else None


def _tpu(accelerators: str) -> tuple[str, int]:
    """Kind and units of a TPU of Cloud TPU's name; empty and 0 of others."""
    found = re.fullmatch(r"tpu-(\w+)-(\d+)", accelerators.partition(":")[0].strip().lower())
    return ("", 0) if found is None else (found[1], int(found[2]))


def _worker(job: Job, accelerators: str, nodes: int) -> str:
    """The command of every host, but for the indices."""
    if nodes > 1:
        joined = (
            f'--coordinator "$(head -n 1 <<<"$SKYPILOT_NODE_IPS"):{PORT}" --processes "$SKYPILOT_NUM_NODES" '
            '--process-index "$SKYPILOT_NODE_RANK"'
        )
        return job.task("--mode", "mesh", joined=joined)
    return job.task("--mode", "mesh", "--distributed") if is_pod(accelerators) else job.task()
