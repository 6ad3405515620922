"""Launch file for a Ray cluster: one job, which asks for the devices of every run."""

import json

from capscale.errors import TRY_AGAIN
from capscale.sweep.launchers.job import DRY_RUN, Job

STOPPING_S = 150
"""Seconds that Ray gives a job that is stopped: as long as workers may take to save, and some; its own default is 3."""


def ray_job(job: Job, *asked: str) -> str:
    """A script that submits `capscale sweep --launcher ray` to the cluster that RAY_API_SERVER_ADDRESS names.

    Args:
      job: the sweep.
      asked: options that say what devices a run gets.
    """
    environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING_S)}})
    return f"""#!/usr/bin/env bash
# Trains {job.name} on a Ray cluster; start it in the project's directory, with the address of the cluster's dashboard:
# RAY_API_SERVER_ADDRESS=http://HEAD:8265 bash FILE
# Nodes have capscale[ray] installed, and see --text and --out. `ray job stop {job.name}` saves checkpoints.
set -uo pipefail
{DRY_RUN}
name={job.name}
{job.tasks}
folder=$(mktemp -d) || exit
trap 'rm -rf "$folder"' EXIT  # ray has sent what is in it when it returns
if [ "$dry_run" = no ]; then
  if ray job status "$name" >"$folder/state" 2>&1 </dev/null; then
    if grep -qiE "' (succeeded|failed|was stopped)" "$folder/state"; then  # it left runs without a result
      ray job delete "$name" </dev/null || exit {TRY_AGAIN}
    else
      echo "$name is under way"
      exit 0
    fi
  elif ! grep -q 'does not exist' "$folder/state"; then
    cat "$folder/state" >&2
    echo "$name was not submitted: no cluster answers at ${{RAY_API_SERVER_ADDRESS:-RAY_API_SERVER_ADDRESS}}" >&2
    exit {TRY_AGAIN}
  fi
fi
mkdir "$folder/files"
tar -c {job.excluded} . | tar -x -C "$folder/files" || [ $? = 1 ] || exit  # 1: a file grew meanwhile, as logs do
if ! run ray job submit --no-wait --submission-id "$name" --working-dir "$folder/files" \\
  --runtime-env-json '{environment}' -- {job.all("--launcher", "ray", *asked)} </dev/null; then
  echo "$name was not submitted; start this script again" >&2
  exit {TRY_AGAIN}
fi
"""
