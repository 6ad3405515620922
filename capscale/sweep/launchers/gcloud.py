"""Launch file for Cloud TPU VMs: a slice that is made, given the project's files, and made again when it is lost."""

import shlex

from capscale.errors import TRY_AGAIN
from capscale.sweep.launchers.cloud_tpu import RUNTIMES, accelerator_type
from capscale.sweep.launchers.job import DRY_RUN, INSTALLED, PYTHON, RESTARTS, Capacity, Job
from capscale.sweep.slices import Slice

BOUGHT: dict[Capacity, str] = {"spot": "--spot", "on-demand": "", "reserved": "--reserved"}
"""Options of gcloud for each way to buy a slice."""

ALONE = f"""if read -r before <"$HOME/capscale.pid" && grep -qs capscale "/proc/$before/cmdline"; then
  kill -TERM "$before"
  for second in $(seq 120); do kill -0 "$before" 2>/dev/null || break; sleep 1; done
  kill -KILL "$before"
fi 2>/dev/null
echo $$ >"$HOME/capscale.pid"
{INSTALLED} exec"""
"""Ends a worker that an earlier start has left on a host, as after a lost connection: it holds the chips."""


def gcloud(job: Job, slice_: Slice, *, zone: str, capacity: Capacity = "spot", queued: bool = False) -> str:
    """A script that keeps a TPU VM slice and trains all runs on its hosts, until they have results.

    It ends by itself on 0 and on 2, bad input. Everything else (75, 143, a slice that is preempted, a connection that
    breaks) starts the workers again, on a new slice where the old one is gone.
    """
    workers, kind = job.all("--mode", "mesh", "--distributed"), accelerator_type(slice_)
    bought = f" {BOUGHT[capacity]}" if BOUGHT[capacity] else ""
    return f"""#!/usr/bin/env bash
# Trains {job.name} on a TPU VM slice; start it in the project's directory, and leave it running, as in tmux.
# RESTARTS, WAIT_S, TRIES and TRY_S in the environment bound how often it starts again, and looks for a slice.
{PYTHON}
set -uo pipefail
{DRY_RUN}
name={job.name}
zone={shlex.quote(zone)}
restarts=${{RESTARTS:-{RESTARTS}}} wait_s=${{WAIT_S:-60}} tries=${{TRIES:-1440}} try_s=${{TRY_S:-120}}
folder=$(mktemp -d) || exit
trap 'rm -rf "$folder"' EXIT

vm() {{ run gcloud compute tpus tpu-vm "$1" "$name" --zone "$zone" "${{@:2}}"; }}
{(_QUEUED if queued else _AT_ONCE).format(kind=kind, version=RUNTIMES[slice_.generation], bought=bought)}
# Waits for the slice. What lacks capacity, or passes, is asked for again; another refusal is final.
stand() {{
  local try state
  for ((try = 0; try < tries; try++)); do
    state=none
    if [ "$dry_run" = no ]; then state=$(state_of 2>/dev/null </dev/null) || state=none; fi
    case "$state" in
    READY) return 0 ;;
    none)
      if make </dev/null 2>"$folder/refused"; then
        if [ "$dry_run" = yes ]; then return 0; fi
        continue
      fi
      cat "$folder/refused" >&2
      if ! grep -qiE 'capacity|exhausted|unavailable|internal|deadline|try again|timed out' "$folder/refused"; then
        return 2
      fi
      ;;
    gone) if drop </dev/null; then continue; fi ;;
    esac
    echo "$name: $state; looking again in $try_s s" >&2
    sleep "$try_s"
  done
  echo "$name: no slice after $tries looks; start this script again" >&2
  return {TRY_AGAIN}
}}

work() {{
  {{ tar -czf "$folder/capscale.tar.gz" {job.excluded} . || [ $? = 1 ]; }} &&  # 1: a file grew meanwhile, as logs do
    run gcloud compute tpus tpu-vm scp "$folder/capscale.tar.gz" "$name:" --zone "$zone" --worker=all </dev/null &&
    vm ssh --worker=all --command {shlex.quote(_UNPACK + job.ready("tpu"))} </dev/null &&
    vm ssh --worker=all --command {shlex.quote(f"cd capscale || exit; {ALONE} {workers}")} </dev/null
}}

for ((start = 0; start <= restarts; start++)); do
  if ((start > 0)); then
    echo "$name: ended with $status; start $start of at most $restarts more in $wait_s s" >&2
    sleep "$wait_s"
  fi
  tasks=$({job.asks})
  asked=$?
  if [ "$asked" = 0 ] && [ -z "$tasks" ]; then
    status=0
    break
  elif [ "$asked" != 0 ]; then  # the store may be back at the next start; what is wrong at the first stays so
    status=$asked
    if ((start == 0)); then exit "$status"; else continue; fi
  fi
  stand || exit
  work
  status=$?
  if [ "$status" = 0 ] || [ "$status" = 2 ] || [ "$dry_run" = yes ]; then break; fi
done
if [ "$dry_run" = no ]; then
  echo "$name: ended with $status. A slice costs until it is deleted: $(dry_run=yes; drop)" >&2
fi
exit "$status"
"""


_UNPACK = "mkdir -p capscale && tar -xzf capscale.tar.gz -C capscale && cd capscale || exit; "

_AT_ONCE = """state_of() {{  # READY, none, gone, or how far it is
  vm describe --format 'value(state)' | sed -E 's/^(PREEMPTED|TERMINATED)$/gone/'
}}
make() {{ vm create --accelerator-type {kind} --version {version}{bought}; }}
drop() {{ vm delete --quiet; }}  # what is left of a preempted slice does nothing but hold the name
"""

_QUEUED = """queue() {{ run gcloud compute tpus queued-resources "$1" "$name" --zone "$zone" "${{@:2}}"; }}
state_of() {{  # READY, none, gone, or how far it is; the slice may be gone before its request knows
  local state
  state=$(queue describe --format 'value(state.state)') || return
  case "$state" in
  ACTIVE) vm describe --format 'value(state)' | sed -E 's/^(PREEMPTED|TERMINATED)$/gone/' ;;
  SUSPENDED | FAILED) echo gone ;;
  *) echo "$state" ;;
  esac
}}
make() {{ queue create --node-id "$name" --accelerator-type {kind} --runtime-version {version}{bought}; }}
drop() {{ queue delete --force --quiet; }}  # with the slice that it holds
"""
