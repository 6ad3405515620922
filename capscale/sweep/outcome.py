"""Groups of runs at work side by side in one process, and what becomes of them."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from etils import epath

from capscale.clock import Waitable, clock
from capscale.errors import UserError
from capscale.files import refuse_link, write_json, writing
from capscale.storage import is_passing, make_directory
from capscale.sweep.directory import check_open
from capscale.sweep.plan import Sweep
from capscale.train.distributed import FailedElsewhere
from capscale.train.lease import Held, LeaseLost
from capscale.train.loop import Interrupted, StoppedEarly
from capscale.train.run import Run

HEARD_S = 0.5
"""Seconds between looks at whether to stop."""


@dataclass
class Outcome:
    """Outcome of a launch: counts of runs, and the messages of those that failed.

    `stopped` are those that were stopped early, now or before.

    `alone` is set where this process failed at something that other processes may still wait for it to do, or was left
    by them: nothing can be agreed with them any more, so it must end at once, for them to notice.

    `passing` counts the failures that may pass by themselves. `abandoned` is set where runs without a step behind them
    were left in the midst of compiling: their threads cannot be ended, only the process.
    """

    present: int = 0
    trained: int = 0
    diverged: int = 0
    stopped: int = 0
    failed: list[str] = field(default_factory=list)
    passing: int = 0
    interrupted: bool = False
    alone: bool = False
    abandoned: bool = False


class Done(NamedTuple):
    """Results of a group, as far as this process sees them, and whether they were trained here."""

    results: list[dict[str, Any]]
    trained: bool


def trained_side_by_side(
    groups: list[list[Run]],
    work: Callable[[list[Run]], Done],
    threads: int,
    *,
    begun: set[str],
    stop: Waitable,
    outcome: Outcome,
) -> Iterator[tuple[list[Run], Future[Done]]]:
    """Does `work` for each group of runs in a thread, and gives them as they end.

    When `stop` is set, groups that have begun save their checkpoints and end. Those that have not made a step compile,
    perhaps for minutes, and have nothing to save: they are left, and `outcome.abandoned` is set.

    Args:
      groups: runs that are trained together.
      work: trains a group.
      threads: how many groups at a time.
      begun: ids of the first run of each group that has made a step.
      stop: set to stop early, as Ctrl-C does.
      outcome: is told of both.
    """
    pool = clock().pool(threads, "train")
    futures = {pool.submit(work, runs): runs for runs in groups}
    left = set(futures)
    try:
        while left:
            ended, left = clock().wait(left, HEARD_S)
            yield from ((runs, future) for future, runs in futures.items() if future in ended)
            if stop.is_set() and left and not any(futures[future][0].run_id in begun for future in left):
                ended, left = clock().wait(
                    left, HEARD_S, for_all=True
                )  # groups whose turn had not come end by themselves
                yield from ((runs, future) for future, runs in futures.items() if future in ended)
                outcome.abandoned = bool(left)
                break
    except KeyboardInterrupt:
        stop.set()
        outcome.interrupted = True
    finally:
        pool.shutdown(wait=not outcome.abandoned, cancel_futures=outcome.abandoned)


def collect(future: Future[Done], runs: list[Run], sweep: Sweep, out: epath.Path, outcome: Outcome) -> bool:
    """Counts what became of a group; False if another worker has it."""
    try:
        results, trained = future.result()
        if trained:
            outcome.trained += len(runs)
            outcome.diverged += sum(result["status"] == "diverged" for result in results)
        else:
            outcome.present += len(runs)
    except StoppedEarly:
        outcome.stopped += len(runs)
    except Interrupted:
        pass
    except (Held, LeaseLost):
        return False
    except Exception as error:  # one bad run must not end the sweep; what it was is kept and reported
        reason = reason_of(error)
        try:
            check_open(out)
        except UserError as gone:
            outcome.failed += [str(gone)] if str(gone) not in outcome.failed else []
            return True
        for run in runs:
            outcome.failed.append(f"run {run.run_id}: {reason}")
            outcome.passing += is_passing(error)
            if isinstance(error, FailedElsewhere):
                continue  # error.json is for the reason
            directory = sweep.directory_of(run, out)
            try:
                refuse_link(directory)
                with writing(directory):
                    make_directory(directory)
                # Of several processes the first to fail knows why; the others only see it go.
                write_json(directory / "error.json", {"run_id": run.run_id, "error": reason}, new=True)
            except UserError:
                continue  # the disk, or the place, is what failed; the message above says so
    return True


def reason_of(error: Exception) -> str:
    """The message of an error, with its type where it is none of ours, and a remedy where memory was short."""
    if isinstance(error, UserError):
        return str(error)
    remedy = "; a device has no memory left: --memory auto finds a setting that fits"
    return f"{type(error).__name__}: {error}" + (remedy if "RESOURCE_EXHAUSTED" in str(error) else "")
