"""Trains what is missing of a sweep on a Ray cluster, each run on devices of one host or on a TPU slice."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from etils import epath

from capscale.clock import Waitable, clock
from capscale.errors import UserError
from capscale.files import read_json
from capscale.storage import children, is_object_storage
from capscale.sweep.display import Display
from capscale.sweep.endings import Endings
from capscale.sweep.outcome import Outcome
from capscale.sweep.plan import Sweep
from capscale.sweep.ray_unit import Kind, Unit, largest, unit
from capscale.sweep.ray_work import Train, Work, starting
from capscale.sweep.slices import Slice
from capscale.train.run import Run
from capscale.train.unmarked import MARK

_POLL_S = 1.0
SAVING_S = 120.0
"""Seconds that workers have to save when the sweep is stopped."""


@dataclass
class _Attempt:
    """A run on its way: `fruitless` attempts in a row that ended without a later checkpoint than `step`."""

    run: Run
    index: int
    fruitless: int = 0
    step: int = 0


def launch_on_ray(
    sweep: Sweep,
    train: Train,
    out: epath.Path,
    display: Display,
    *,
    devices: int = 1,
    kind: Kind | None = None,
    slice_: Slice | None = None,
    jobs: int | None = None,
    retries: int = 3,
    wait_s: float = 1800.0,
    stopping: bool = False,
    stop: Waitable | None = None,
) -> Outcome:
    """Trains every run of `sweep` that has no result in `out` yet, each in a Ray task, or one on every host of a slice.

    The cluster is the one that RAY_ADDRESS names, else one is started on this machine. The directory, the text and the
    experiment must be readable at the same path on every node, and this process must not have taken the accelerators.
    Whoever kills a worker, or a node, loses the steps since its last checkpoint. Where one of a slice's hosts dies, the
    others' processes end, and the run goes on from there on a slice that is whole.

    All runs are asked for at once, so that an autoscaler sees them, and nothing is held for a run that has ended.

    Args:
      sweep: the runs.
      train: trains the run at that place of the sweep, in a process of its own, as `capscale run --index` does. Ray
        wants a function; a partial is none.
      out: directory opened for this sweep.
      display: shown progress and results.
      devices: accelerators a run, of one host: GPUs, chips of a TPU host, or CPU cores where there are neither.
      kind: which of them; where not given, what the cluster has now.
      slice_: TPU slice that trains each run, a process on each of its hosts, in place of these.
      jobs: CPU cores of a cluster that is started here; those of the machine by default.
      retries: attempts in a row that may end without a new checkpoint before a run counts as failed.
      wait_s: seconds to wait while the cluster has no such devices, busy or not, as an autoscaler may add them; none
        are waited on a cluster that is started here.
      stopping: `train` stops runs early; see `Endings`.
      stop: set it to stop early: checkpoints are saved, and `interrupted` is set.

    Returns:
      Counts and failures.

    Raises:
      UserError: Ray is not installed or does not answer, or does not give such devices to a run.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--launcher ray needs Ray; install it: pip install 'capscale[ray]'") from error
    address = os.environ.get("RAY_ADDRESS")
    _connect(address, jobs)
    stop, endings = stop or clock().event(), Endings(sweep, out, display, stopping)
    try:
        wanted = unit(ray.cluster_resources(), devices, kind=kind, slice_=slice_)
        lack, begin = _Lack(wanted, wait_s if address else 0.0, display), starting(wanted, train)
        places = {run: index for index, run in enumerate(sweep.runs)}
        attempts = [
            _Attempt(run, places[run], step=newest_checkpoint(sweep.directory_of(run, out))) for run in endings.left()
        ]
        _train(attempts, begin, endings, lack=lack, retries=retries, stop=stop)
    finally:
        ray.shutdown()
    return endings.outcome


def _connect(address: str | None, jobs: int | None) -> None:
    import ray

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


def _train(
    attempts: list[_Attempt],
    begin: Callable[[int], Work],
    endings: Endings,
    *,
    lack: "_Lack",
    retries: int,
    stop: Waitable,
) -> None:
    """Makes the attempts, and others where they end without a result, until all are over or asked to stop."""
    said = lack.over() if attempts else None
    waiting = {} if said else {begin(attempt.index): attempt for attempt in attempts}
    try:
        while waiting and not stop.is_set() and not (said := lack.over()):
            _hear(waiting)
            for work, reason in [(work, reason) for work in waiting if (reason := work.ended()) is not None]:
                attempt = waiting.pop(work)
                work.close()
                if not _is_over(endings, reason, attempt, retries):
                    waiting[begin(attempt.index)] = attempt
        if said:
            endings.fails(said, passing=True)
        endings.outcome.interrupted = stop.is_set() and bool(waiting)
        for work in waiting:
            work.cancel()
        until = clock().monotonic() + SAVING_S
        while any(work.ended() is None for work in waiting) and clock().monotonic() < until:
            _hear(waiting)
    finally:
        for work in waiting:
            work.close()


def _hear(waiting: dict[Work, _Attempt]) -> None:
    """Waits a little for what is ready, and tells the attempt that waits for it."""
    import ray

    awaited = {reference: work for work in waiting for reference in work.awaited}
    for reference in ray.wait(list(awaited), timeout=_POLL_S)[0] if awaited else ():
        awaited[reference].hear(reference)


class _Lack:
    """Time for which the cluster has no devices such as a run needs, busy or not, up to a limit."""

    def __init__(self, wanted: Unit, limit_s: float, display: Display):
        self._wanted, self._limit_s, self._display = wanted, limit_s, display
        self._since: float | None = None
        self._looked = -_POLL_S

    def over(self) -> str | None:
        """Says what was waited for in vain, once that has taken as long as it may; None until then."""
        import ray

        now = clock().monotonic()
        if now - self._looked < _POLL_S:
            return None
        self._looked, nodes = now, ray.nodes()
        if self._wanted.is_there(nodes):
            self._since = None
            return None
        self._since = now if self._since is None else self._since
        minutes = f"{self._limit_s / 60:g} minutes"
        if now - self._since < self._limit_s:
            self._display.say(f"waiting for {self._wanted}, {minutes} at most: the cluster has {largest(nodes)} now")
            return None
        return (
            f"the cluster has {largest(nodes)}, and no {str(self._wanted).removeprefix('a ')}"
            + (f", after {minutes} of waiting (--wait-for-nodes)" if self._limit_s else "")
            + "; ask for fewer by --devices-per-run or --slice, or see to its nodes and start again"
        )


def newest_checkpoint(directory: epath.Path) -> int:
    """Step of the newest checkpoint, 0 without one: what an attempt has really added."""
    checkpoints = directory / "checkpoints"
    there = [path for path in children(checkpoints) if path.name.isdecimal()] if checkpoints.exists() else []
    # Orbax writes into a directory of another name, and renames it; on object storage it writes this file last.
    whole = [path for path in there if not is_object_storage(path) or (path / MARK).exists()]
    return max((int(path.name) for path in whole), default=0)


def _is_over(endings: Endings, reason: str, attempt: _Attempt, retries: int) -> bool:
    """Whether a run needs no other attempt, now that one has ended: see `Endings`, or it has failed too often."""
    try:
        if endings.is_over(attempt.run):
            return True
    except UserError as error:
        endings.fails(str(error))
        return True
    directory = endings.sweep.directory_of(attempt.run, endings.out)
    step = newest_checkpoint(directory)
    attempt.fruitless = 0 if step > attempt.step else attempt.fruitless + 1
    attempt.step = step
    if attempt.fruitless <= retries:
        return False
    if (directory / "error.json").exists():
        reason = read_json(directory / "error.json", "remove it").get("error", reason)
    endings.fails(f"run {attempt.run.run_id}: {reason}; {attempt.fruitless} attempts without progress")
    return True
