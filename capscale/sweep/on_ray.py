"""Trains what is missing of a sweep on a Ray cluster, one run per accelerator."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from capscale.clock import Waitable, clock
from capscale.errors import UserError
from capscale.files import read_json
from capscale.storage import children, is_object_storage
from capscale.sweep.display import Display
from capscale.sweep.local import missing_runs
from capscale.sweep.outcome import Outcome
from capscale.sweep.plan import Sweep
from capscale.train.record import read_result
from capscale.train.run import Run
from capscale.train.unmarked import MARK

_POLL_S = 1.0


@dataclass
class _Attempt:
    """A run on its way: `fruitless` attempts in a row that ended without a later checkpoint than `step`."""

    run: Run
    index: int
    fruitless: int = 0
    step: int = 0


def launch_on_ray(
    sweep: Sweep,
    train: Callable[[int], int],
    out: epath.Path,
    display: Display,
    *,
    devices: int = 1,
    jobs: int | None = None,
    retries: int = 3,
    stop: Waitable | None = None,
) -> Outcome:
    """Trains every run of `sweep` that has no result in `out` yet, each in a Ray task.

    The cluster is the one that RAY_ADDRESS names, else one is started on this machine. The directory, the text and the
    experiment must be readable at the same path on every node, and this process must not have taken the accelerators.
    Whoever kills a worker, or a node, loses the steps since its last checkpoint.

    Args:
      sweep: the runs.
      train: trains the run at that place of the sweep, in a process of its own, as `capscale run --index` does. Ray
        wants a function; a partial is none.
      out: directory opened for this sweep.
      display: shown progress and results.
      devices: accelerators a run: GPUs, chips of a TPU host, or CPU cores where there are neither. A slice of several
        hosts needs a process on each; see `capscale launch gcloud` for those.
      jobs: CPU cores of a cluster that is started here; those of the machine by default.
      retries: attempts in a row that may end without a new checkpoint before a run counts as failed.
      stop: set it to stop early: checkpoints are saved, and `interrupted` is set.

    Returns:
      Counts and failures.

    Raises:
      UserError: Ray is not installed or does not answer, or no node has the devices that a run needs.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--launcher ray needs Ray; install it: pip install 'capscale[ray]'") from error
    stop, outcome = stop or clock().event(), Outcome()
    address = os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, num_cpus=None if address else jobs, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray has no common type for a cluster that does not answer
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Ray cannot be reached at RAY_ADDRESS={address!r} ({reason}); check it, or unset it to start Ray here"
            if address
            else f"Ray cannot be started on this machine ({reason}); mend that, or name a cluster by RAY_ADDRESS"
        ) from error
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray has put its own there
    try:
        task: Any = ray.remote(max_retries=0, **_resources(ray.cluster_resources(), devices))(train)
        waiting: dict[Any, _Attempt] = {}
        missing = set(missing_runs(sweep, out, outcome))
        for index, run in enumerate(sweep.runs):
            if run in missing:
                attempt = _Attempt(run, index, step=newest_checkpoint(sweep.directory_of(run, out)))
                waiting[task.remote(index)] = attempt
        display.begin(total=len(sweep.runs), present=outcome.present)
        while waiting and not stop.is_set():
            for reference in ray.wait(list(waiting), timeout=_POLL_S)[0]:
                attempt = waiting.pop(reference)
                directory = sweep.directory_of(attempt.run, out)
                if not _is_over(reference, attempt, directory, display=display, outcome=outcome, retries=retries):
                    waiting[task.remote(attempt.index)] = attempt
        for reference in waiting:
            ray.cancel(reference)  # a running one hears it as Ctrl-C, and saves
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=120)
            outcome.interrupted = True
    finally:
        ray.shutdown()
    return outcome


def _resources(there: Mapping[str, float], devices: int) -> dict[str, Any]:
    """Resources that a task asks of Ray: accelerators where the cluster has some."""
    asked: dict[str, dict[str, Any]] = {
        "GPU": {"num_cpus": 1, "num_gpus": devices},
        "TPU": {"num_cpus": 1, "resources": {"TPU": devices}},
        "CPU": {"num_cpus": devices},
    }
    kind = next((kind for kind in asked if there.get(kind, 0.0) > 0), "CPU")
    found = there.get(kind, 0.0)
    if found < devices:
        raise UserError(f"--devices-per-run {devices}: the cluster has {found:.0f} {kind} in all; ask for fewer")
    return asked[kind]


def newest_checkpoint(directory: epath.Path) -> int:
    """Step of the newest checkpoint, 0 without one: what an attempt has really added."""
    checkpoints = directory / "checkpoints"
    there = [path for path in children(checkpoints) if path.name.isdecimal()] if checkpoints.exists() else []
    # Orbax writes into a directory of another name, and renames it; on object storage it writes this file last.
    whole = [path for path in there if not is_object_storage(path) or (path / MARK).exists()]
    return max((int(path.name) for path in whole), default=0)


def _is_over(
    reference: Any, attempt: _Attempt, directory: epath.Path, *, display: Display, outcome: Outcome, retries: int
) -> bool:
    """Whether a run needs no other attempt, now that one has ended: it has a result, or has failed too often."""
    import ray
    from ray.exceptions import RayError

    try:
        reason = f"worker ended with status {ray.get(reference)}"
    except RayError as error:
        reason = f"worker died ({type(error).__name__})"
    try:
        result = read_result(directory, attempt.run)
    except UserError as error:
        outcome.failed.append(str(error))
        return True
    if result is not None:
        outcome.trained += 1
        outcome.diverged += result["status"] == "diverged"
        display.finished(attempt.run, result)
        return True
    step = newest_checkpoint(directory)
    attempt.fruitless = 0 if step > attempt.step else attempt.fruitless + 1
    attempt.step = step
    if attempt.fruitless <= retries:
        return False
    if (directory / "error.json").exists():
        reason = read_json(directory / "error.json", "remove it").get("error", reason)
    outcome.failed.append(f"run {attempt.run.run_id}: {reason}; {attempt.fruitless} attempts without progress")
    return True
