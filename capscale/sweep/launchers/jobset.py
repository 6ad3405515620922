"""Launch file for Kubernetes: a JobSet a task on the TPU slices of a GKE cluster, queued by Kueue where it has that."""

import json
from typing import Any

from capscale.errors import TRY_AGAIN
from capscale.sweep.launchers.cloud_tpu import CHIPS_A_HOST
from capscale.sweep.launchers.job import DRY_RUN, RESTARTS, Job
from capscale.sweep.slices import Slice

_ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
"""GKE's labels of nodes (cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus)."""
PORTS = {"coordinator": 8482, "slice": 8471, "slices": 8080}
"""Ports on which hosts find each other: that of JAX's coordinator, that of libtpu in a slice, and between slices."""
_INDICES = "INDICES"
_TASK = "TASK"


def jobset(job: Job, slice_: Slice, *, image: str, queue: str | None = None, slices: int = 1) -> str:
    """A JobSet a task, restarted as a whole on 75 and on signals, and ended by other failures.

    Those under way are left alone, those that ended without a result are deleted and made again. `queue`: a LocalQueue
    of Kueue. Hosts of several slices find each other by what GKE tells them.
    """
    text = json.dumps(manifest(job, slice_, image=image, queue=queue, slices=slices), indent=1)  # JSON is YAML
    return f"""#!/usr/bin/env bash
# Trains {job.name} on the cluster of the current kubectl context: a JobSet a task. --dry-run prints these as YAML.
set -uo pipefail
{DRY_RUN}
{job.tasks}
manifest() {{
  sed 's/"{job.name}-{_TASK}"/"'"$1"'"/; s/"value": "{_INDICES}"/"value": "'"$2"'"/' <<'JOBSET'
{text}
JOBSET
}}
known=''
if [ "$dry_run" = no ]; then
  known=$(kubectl get jobsets --no-headers --output custom-columns=N:.metadata.name,S:.status.terminalState) || exit
fi
status=0
while read -r first rest; do
  name={job.name}-$first
  if [ "$dry_run" = yes ]; then
    echo "---"
    manifest "$name" "$first${{rest:+ $rest}}"
    continue
  fi
  case $(awk -v name="$name" '$1 == name {{ print $2 }}' <<<"$known") in
  '') ;;
  Completed | Failed) kubectl delete jobset "$name" ;;
  *)
    echo "$name is under way"
    continue
    ;;
  esac
  if ! manifest "$name" "$first${{rest:+ $rest}}" | kubectl create --filename -; then
    echo "$name was not created; start this script again" >&2
    status={TRY_AGAIN}
  fi
done <<<"$tasks"
exit "$status"
"""


def manifest(job: Job, slice_: Slice, *, image: str, queue: str | None, slices: int) -> dict[str, Any]:
    """The JobSet of a task whose name and indices are still to be filled in (jobset.x-k8s.io/v1alpha2)."""
    chips = min(CHIPS_A_HOST, slice_.chips)
    hosts = slice_.chips // chips
    worker = {
        "name": "train",
        "image": image,
        "command": ["bash", "-c", f"exec {job.task('--mode', 'mesh', '--distributed')} $CAPSCALE_INDEX"],
        "env": [{"name": "CAPSCALE_INDEX", "value": _INDICES}],
        "ports": [{"name": name, "containerPort": port} for name, port in PORTS.items()],
        "resources": {"limits": {"google.com/tpu": chips}},
        "securityContext": {"privileged": True},
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": _ACCELERATORS[slice_.generation],
            "cloud.google.com/gke-tpu-topology": slice_.shape,
        },
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists"}],
        "containers": [worker],
    }
    again = {"containerName": "train", "operator": "NotIn", "values": [TRY_AGAIN, *range(129, 256)]}
    of_slice = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one host that fails fails its slice, and the JobSet starts all of them again
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": [], "onExitCodes": again}]},
        "template": {"spec": pod},
    }
    rules = [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": f"{job.name}-{_TASK}",
            "labels": {"kueue.x-k8s.io/queue-name": queue} if queue else {},
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": RESTARTS, "rules": rules},
            "replicatedJobs": [{"name": "slice", "replicas": slices, "template": {"spec": of_slice}}],
        },
    }
