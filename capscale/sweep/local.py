"""Trains what is missing of a sweep on this machine's devices."""

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import jax
from etils import epath

from capscale.artifacts import read_stopped
from capscale.clock import Waitable, clock
from capscale.data.source import Source
from capscale.errors import Unavailable, UserError
from capscale.files import is_there, refuse_link, writing
from capscale.storage import is_passing
from capscale.sweep.directory import check_open
from capscale.sweep.display import Display
from capscale.sweep.losers import by_promise
from capscale.sweep.outcome import Done, Outcome, collect, reason_of, trained_side_by_side
from capscale.sweep.plan import Sweep
from capscale.sweep.preflight import Setting
from capscale.train.distributed import all_or_none, any_process, is_agreed, noticing_the_lost
from capscale.train.early import Judge
from capscale.train.executor import Executor, Population, Sharded
from capscale.train.lease import LENGTH_S, Held, LeaseLost, check_free
from capscale.train.loop import Interrupted, LoopIntervals, StoppedEarly, train
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.record import read_result
from capscale.train.run import Run
from capscale.train.saving import BY_TIME, Saving
from capscale.train.sharding import make_mesh
from capscale.train.step import Program
from capscale.train.trackers import OpenBoard

RETRY_S = LENGTH_S / 12
"""Seconds between looks at runs that other workers hold."""

Mode = Literal["auto", "threads", "population", "mesh"]


def launch(
    sweep: Sweep,
    source: Source,
    out: epath.Path,
    display: Display,
    *,
    mode: Mode = "auto",
    jobs: int | None = None,
    fsdp: int = 1,
    memory: Memory = AT_ONCE,
    fit: Callable[[Run], Setting] | None = None,
    saving: Saving = BY_TIME,
    trackers: Sequence[OpenBoard] = (),
    stop: Waitable | None = None,
    judge: Callable[[Run], Judge | None] | None = None,
) -> Outcome:
    """Trains every run of `sweep` that has no result in `out` yet.

    Any number of launchers may work on one directory, on any number of machines: each run is trained under a lease.
    A launcher that finds nothing else to do waits for the runs that others hold, and takes over those whose worker
    has died.

    Args:
      sweep: the runs.
      source: their text.
      out: directory opened for this sweep.
      display: shown progress and results.
      mode: "threads" trains independent runs side by side, one a thread; "population" maps runs that differ
        only in seed and learning rate over the devices; "mesh" trains one run at a time over all devices.
        "auto" is a mesh with `fsdp`, where gradients are rounded between devices, and for several processes that
        train together, which can have nothing else;
        otherwise threads on CPUs and, on accelerators, a population where runs allow it and a mesh elsewhere.
      jobs: threads; the CPU count by default.
      fsdp: devices that share one copy of the parameters; not for "threads" and "population".
      memory: what a step keeps at once.
      fit: says both for each run, in their place; not for "threads" and "population".
      saving: how often checkpoints are written.
      trackers: where to show metrics besides metrics.jsonl.
      stop: set it to stop early: checkpoints are saved, and `interrupted` is set.
      judge: who may stop a run early, None for those that nobody does; runs that were are left alone. Not for
        "population". Without it those go on.

    Returns:
      Counts and failures. A run that fails does not stop the others; its message is also in its error.json.

    Raises:
      UserError: `fsdp` is not positive, or the mode is not to be had.
    """
    stop, outcome = stop or clock().event(), Outcome()
    several, mode = jax.process_count() > 1, mode_of(mode, fsdp, together=sends_rounded(sweep))
    missing = unstopped_runs(sweep, out, outcome) if judge else missing_runs(sweep, out, outcome)
    threads = (jobs or os.cpu_count() or 1) if mode == "threads" else 1
    groups = _alike(missing) if mode == "population" else [[run] for run in missing]
    if threads > 1:
        groups = _staggered(groups, threads)
    display.begin(total=len(sweep.runs), present=outcome.present, stopped=outcome.stopped)

    begun: set[str] = set()
    """The first of each group's runs, once it has made a step here."""

    @_alone_unless_agreed(outcome)
    def work(runs: list[Run]) -> Done:
        if outcome.alone or any_process(stop.is_set())[0]:
            raise Interrupted("not started")
        directories = [sweep.directory_of(run, out) for run in runs]
        with all_or_none():
            check_open(out)  # else the run would make it anew, without the others'
            for directory in directories:
                refuse_link(directory)
            # First, as it is one request: of a long list most runs are another worker's by now, and done.
            found = [read_result(directory, run) for directory, run in zip(directories, runs, strict=True)]
        present = [result for result in found if result is not None]
        if any_process(len(present) == len(runs))[0]:  # another worker, which held them, has finished them
            return Done(present, trained=False)
        if judge and _was_stopped(directories[0], runs[0]):
            raise StoppedEarly("stopped early by another worker")
        with all_or_none():
            for directory in directories:
                if not several and is_there(directory):
                    check_free(directory)  # before the text is read and a program compiled for nothing
                with writing(directory):
                    (directory / "error.json").unlink(missing_ok=True)
        setting = fit(runs[0]) if fit else None  # processes search together, and each may fail by itself
        with all_or_none():
            if setting is None:
                executor = _executor(runs, threads, fsdp, memory)
            else:
                executor = _executor(runs, threads, setting.fsdp, setting.memory)
            if several:
                source.check()  # training does as well, but a host whose copy is damaged would leave the others behind
        judged_by = judge(runs[0]) if judge else None
        # Orbax's background saves cannot run side by side in one process.
        intervals = LoopIntervals.at(executor, runs, background=threads == 1, saving=saving, judged=bool(judged_by))
        with display.running(runs) as shown:
            results = train(
                runs,
                source,
                directories,
                executor,
                observe=lambda progress: begun.add(runs[0].run_id) or shown(progress),
                stop=stop,
                intervals=intervals,
                trackers=trackers,
                judge=judged_by,
            )
        for run, result in zip(runs, results, strict=False):  # none where only other processes see them yet
            display.finished(run, result)
        return Done(results, trained=True)

    while groups:
        held: list[list[Run]] = []
        for runs, future in trained_side_by_side(groups, work, threads, begun=begun, stop=stop, outcome=outcome):
            if not collect(future, runs, sweep, out, outcome):
                held.append(runs)
        groups = held if held and _all_go_on(stop, outcome) else []
        if groups:
            display.waiting(sum(map(len, groups)))
            stop.wait(RETRY_S)
    outcome.interrupted |= stop.is_set()
    return outcome


@contextmanager
def _alone_unless_agreed(outcome: Outcome) -> Iterator[None]:
    """Sets `alone` when what is raised inside is known to this process only."""
    try:
        with noticing_the_lost():
            yield
    except (Interrupted, Held, LeaseLost):
        raise  # in all processes alike
    except Exception as error:
        outcome.alone = jax.process_count() > 1 and not is_agreed(error)
        raise


def _all_go_on(stop: Waitable, outcome: Outcome) -> bool:
    """Whether no process is to stop, nor has left the others."""
    try:
        return not outcome.alone and not any_process(stop.is_set())[0]
    except UserError as error:
        outcome.failed.append(str(error))
        outcome.passing += isinstance(error, Unavailable)
        outcome.alone = True
        return False


def sends_rounded(sweep: Sweep) -> bool:
    """Whether devices of some run are to send each other rounded gradients, for which it takes several of them."""
    return any(run.optimizer.reduce != "float32" for run in sweep.runs)


def mode_of(asked: Mode, fsdp: int, judged: bool = False, *, together: bool = False) -> Mode:
    """Mode that "auto" means here; see `launch`. `UserError` for one that is not to be had.

    `judged`: runs may be stopped one by one. `together`: some run takes several devices (`sends_rounded`).
    """
    if fsdp < 1:
        raise UserError(f"--fsdp {fsdp} must be at least 1")
    several = jax.process_count() > 1
    if asked in ("threads", "population"):
        if fsdp > 1:
            raise UserError(
                f"--fsdp {fsdp} splits a run over devices, which --mode {asked} does not; use --mode mesh or --fsdp 1"
            )
        if together:
            raise UserError(
                f"--mode {asked} trains a run on one device, which sends no gradients to others, and of some run these "
                "are to be rounded (Optimizer.reduce): use --mode mesh, or --reduce float32"
            )
        if several:
            raise UserError(
                f"--mode {asked} needs one process, but {jax.process_count()} are connected here: use --mode mesh, or "
                "drop --coordinator"
            )
    if judged and asked == "population":
        raise UserError("--stop-losers stops single runs, which --mode population trains at once; drop one of them")
    if asked != "auto":
        return asked
    if several or together or fsdp > 1:
        return "mesh"
    return "threads" if jax.default_backend() == "cpu" else "mesh" if judged else "population"


def unstopped_runs(sweep: Sweep, out: epath.Path, outcome: Outcome) -> list[Run]:
    """Missing runs that were not stopped early, in the order in which they are judged best; the others are counted."""
    missing = missing_runs(sweep, out, outcome)
    left = [run for run in missing if not _was_stopped(sweep.directory_of(run, out), run)]
    outcome.stopped = len(missing) - len(left)
    return by_promise(left)


def why_stopped(directory: epath.Path, run: Run) -> str | None:
    """Why some worker has stopped a run early, None where none has. What cannot be read is no reason: it goes on."""
    try:
        found = read_stopped(directory, run.run_id)
    except Exception as error:
        if not (isinstance(error, UserError) or is_passing(error)):
            raise
        return None
    return None if found is None else str(found.get("words", "stopped early"))


def _was_stopped(directory: epath.Path, run: Run) -> bool:
    """The same as any of several processes sees it."""
    return any_process(why_stopped(directory, run) is not None)[0]


def missing_runs(sweep: Sweep, out: epath.Path, outcome: Outcome) -> list[Run]:
    """Runs that have no result yet, the others being counted. Several processes count what any of them sees."""
    missing = []
    for run in sweep.runs:
        found, damage, passes = None, None, True
        try:
            found = read_result(sweep.directory_of(run, out), run)
        except Exception as error:  # of storage too: several processes ask one another of the next run all the same
            damage, passes = reason_of(error), is_passing(error)
        is_damaged, is_present, lasts = any_process(damage is not None, found is not None, not passes)
        if is_damaged:
            outcome.passing += not lasts
            outcome.failed.append(damage or f"another process cannot read the result of run {run.run_id}")
        elif is_present:
            outcome.present += 1
        else:
            missing.append(run)
    return missing


def _executor(runs: list[Run], threads: int, fsdp: int, memory: Memory) -> Executor:
    if len(runs) > 1:
        return Population(runs[0], jax.local_devices(), memory)
    return Sharded(runs[0], make_mesh(devices=jax.devices()[:1]) if threads > 1 else make_mesh(fsdp), memory)


def _alike(runs: list[Run]) -> list[list[Run]]:
    """Runs grouped by program and length: a group can be trained as a population."""
    groups: dict[tuple[Program, int, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[Program.of(run), run.steps, run.data.sha256].append(run)
    return list(groups.values())


def _staggered(groups: list[list[Run]], apart: int) -> list[list[Run]]:
    """Further runs of a program after the first ones of `apart` other programs.

    Side by side with the first they would wait while it compiles; at the end of the sweep they would compile anew, as
    `PROGRAMS_HELD` others have come between.
    """
    programs: dict[Program, list[list[Run]]] = defaultdict(list)
    for runs in groups:
        programs[Program.of(runs[0])].append(runs)
    waiting: deque[list[list[Run]]] = deque()
    order = []
    for first, *further in programs.values():
        order.append(first)
        waiting.append(further)
        if len(waiting) > apart:
            order += waiting.popleft()
    return order + [runs for further in waiting for runs in further]
