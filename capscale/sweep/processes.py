"""Trains what is missing of a sweep by several processes on this host, each with some of its devices."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from etils import epath

from capscale.clock import Waitable, clock
from capscale.errors import TRY_AGAIN
from capscale.files import is_there, read_json
from capscale.sweep.display import Display
from capscale.sweep.endings import Endings
from capscale.sweep.outcome import Outcome
from capscale.sweep.plan import Sweep
from capscale.train.run import Run

LOOK_S = 10.0
"""Seconds between looks at which runs have results."""
STOPPED = (130, 143)
"""Exit statuses of a worker that was asked to stop, and has saved."""


def launch_processes(
    sweep: Sweep,
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    out: epath.Path,
    display: Display,
    *,
    look_s: float = LOOK_S,
    stopping: bool = False,
    stop: Waitable | None = None,
) -> Outcome:
    """Trains every run of `sweep` that has no result in `out` yet: a process a group of devices, each a run at a time.

    The processes share the runs by their leases, as any launchers do that work on one directory. What one that dies has
    begun, another one goes on with.

    Args:
      sweep: the runs.
      command: of a process that trains them, such as `capscale run`.
      environments: variables by which each process sees its own devices alone.
      out: directory opened for this sweep.
      display: shown results.
      look_s: seconds between looks at which runs have some.
      stopping: the command stops runs early; see `Endings`.
      stop: set it to stop early: each process saves, and `interrupted` is set.

    Returns:
      Counts and failures.
    """
    stop, endings = stop or clock().event(), Endings(sweep, out, display, stopping)
    missing, outcome = endings.left(), endings.outcome
    # In sessions of their own: Ctrl-C reaches this process alone, which asks each of them once. They say their lines
    # to nobody, as each would count the results of all.
    workers = [
        subprocess.Popen(
            command, env=os.environ | given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        for given in environments[: len(missing)]
    ]
    try:
        while any(worker.poll() is None for worker in workers) and not stop.wait(look_s):
            missing = [run for run in missing if not endings.is_over(run)]
    finally:
        for worker in workers:
            worker.terminate()
        statuses = [worker.wait() for worker in workers]
    missing = [run for run in missing if not endings.is_over(run)]
    outcome.interrupted = stop.is_set() and bool(missing)
    if not missing and any(statuses):
        display.say(f"processes ended with {_listed(statuses)}; others have trained what they had begun")
    if missing and not stop.is_set():
        _tell(endings, missing, statuses)
    return outcome


def _tell(endings: Endings, missing: list[Run], statuses: list[int]) -> None:
    """Says why runs have no result: by what stands in their directories, else by how the processes ended."""
    told = {TRY_AGAIN, *STOPPED, 0}
    for run in missing:
        path = endings.sweep.directory_of(run, endings.out) / "error.json"
        ended = f"its workers ended with {_listed(statuses)}"
        reason = read_json(path, "remove it").get("error", ended) if is_there(path) else ended
        endings.fails(f"run {run.run_id}: {reason}", passing=all(status in told for status in statuses))


def _listed(statuses: list[int]) -> str:
    return ", ".join(map(str, sorted(set(statuses))))
