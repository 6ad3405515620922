"""Launch file for xpk: a workload a task on a GKE cluster."""

import shlex

from capscale.errors import TRY_AGAIN
from capscale.sweep.launchers.cloud_tpu import accelerator_type
from capscale.sweep.launchers.job import DRY_RUN, RESTARTS, Job
from capscale.sweep.slices import Slice


def xpk(job: Job, slice_: Slice, *, zone: str, cluster: str, image: str, slices: int = 1) -> str:
    """Workloads on a GKE cluster through xpk; each starts on all hosts of its slice.

    `xpk workload create` asks whether to overwrite a workload of a name that is there. It is never asked: what is
    under way is left alone, and what has ended without its result is deleted first.
    """
    command = shlex.quote(f"exec {job.task('--mode', 'mesh', '--distributed')}")
    return f"""#!/usr/bin/env bash
# Trains {job.name} on the cluster {cluster}: a workload a task, queued by the cluster.
set -uo pipefail
{DRY_RUN}
{job.tasks}
cluster=(--cluster {shlex.quote(cluster)} --zone {shlex.quote(zone)})
listed() {{  # names of workloads, a line each; nobody is there to answer a question
  xpk workload list "${{cluster[@]}}" --filter-by-status "$1" </dev/null | awk '{{ print $1 }}'
}}
known='' ended=''
if [ "$dry_run" = no ]; then
  known=$(listed EVERYTHING) || exit
  ended=$(listed FINISHED) || exit
fi
status=0
while read -r first rest; do
  name={job.name}-$first
  if grep -qx "$name" <<<"$ended"; then
    run xpk workload delete --workload "$name" "${{cluster[@]}}" </dev/null
  elif grep -qx "$name" <<<"$known"; then
    echo "$name is under way"
    continue
  fi
  command={command}
  if ! run xpk workload create --workload "$name" "${{cluster[@]}}" --tpu-type {accelerator_type(slice_)} \\
    --num-slices {slices} --max-restarts {RESTARTS} --restart-on-exit-codes {TRY_AGAIN} \\
    --termination-grace-period-seconds 120 \\
    --docker-image {shlex.quote(image)} --command "$command $first${{rest:+ $rest}}" </dev/null; then
    echo "$name was not created; start this script again" >&2
    status={TRY_AGAIN}
  fi
done <<<"$tasks"
exit "$status"
"""
