"""The training loop: resume, chunks of steps, checkpoints, metrics, evaluation, result."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from etils import epath

from capscale.checks import check_finite, check_flag, check_real, check_whole
from capscale.clock import Waitable, clock
from capscale.data.source import Source
from capscale.errors import UserError
from capscale.files import read_json, refuse_link, write_json, writing
from capscale.heap import release_growth
from capscale.kernels import dispatch, products
from capscale.models.slices import nested_in
from capscale.storage import make_directory
from capscale.train import record
from capscale.train.checkpoint import Checkpoints
from capscale.train.distributed import agreed, all_or_none, any_process, is_first, wait_for_all
from capscale.train.early import LINES, Judge, forget_stopped, judged, write_stopped
from capscale.train.executor import Executor
from capscale.train.lease import Leases
from capscale.train.logs import Logs
from capscale.train.prefetch import BatchPrefetcher
from capscale.train.progress import Clock, Progress, mfu, peak_of
from capscale.train.run import Run, described
from capscale.train.saving import BY_TIME, MTBF_S, SaveTimer, Saving, TimedSaves
from capscale.train.trackers import OpenBoard


class Interrupted(Exception):
    """Training was asked to stop; its checkpoints are on disk."""


class StoppedEarly(Interrupted):
    """The run cannot win, and says why; its checkpoint is on disk, and stopped.json says so too."""


@dataclass(frozen=True)
class LoopIntervals:
    """How often the loop comes up for air; no result depends on it.

    Attributes:
      chunk: most steps per compiled call, which is also how often metrics are written.
      checkpoint_s: seconds between checkpoints; None for what `capscale.train.saving` makes of their time.
      background: write checkpoints while training goes on, for processes that train one run at a time.
      mtbf_s: mean seconds between failures, from which that follows.
    """

    chunk: int
    checkpoint_s: float | None = None
    background: bool = False
    mtbf_s: float = MTBF_S

    def __post_init__(self):
        check_whole(self, "chunk", least=1)
        check_finite(self, "checkpoint_s", least=0, optional=True)
        check_flag(self, "background")
        check_real(self, "mtbf_s", above=0)

    @classmethod
    def of(
        cls, run: Run, background: bool = False, peak: float | None = None, saving: Saving = BY_TIME
    ) -> "LoopIntervals":
        """Chunks of about 2e12 FLOPs, seconds on a CPU core, 500 steps at most.

        `peak`: FLOP/s of the devices that the run has, where known. Chunks then take half a second at half of it, so
        that devices do not wait for the host after every step.
        """
        flops = max(2e12, 0.25 * (peak or 0.0))
        return cls(int(np.clip(flops / run.step_flops, 1, 500)), saving.interval_s, background, saving.mtbf_s)

    @classmethod
    def at(
        cls,
        executor: Executor,
        runs: list[Run],
        background: bool = False,
        saving: Saving = BY_TIME,
        judged: bool = False,
    ) -> "LoopIntervals":
        """The same for runs that share the devices of an executor; finer for one that is `judged`."""
        peak = peak_of(executor.devices / len(runs))
        found = cls.of(runs[0], background=background, peak=peak, saving=saving)
        return replace(found, chunk=min(found.chunk, max(1, runs[0].steps // LINES))) if judged else found


def train(
    runs: list[Run],
    source: Source,
    directories: list[epath.Path],
    executor: Executor,
    *,
    observe: Callable[[Progress], None] = lambda progress: None,
    stop: Waitable | None = None,
    intervals: LoopIntervals | None = None,
    trackers: Sequence[OpenBoard] = (),
    judge: Judge | None = None,
) -> list[dict[str, Any]]:
    """Trains runs of one program and length side by side, to a result each.

    Args:
      runs: runs that differ in seed and learning rate only; one, unless the executor is a population.
      source: the text named by their `data`.
      directories: a directory a run; made if absent, resumed if it holds checkpoints of this run.
      executor: where to train.
      observe: called after every chunk.
      stop: when set, checkpoints are saved and `Interrupted` is raised.
      intervals: chunk length and checkpoint interval; derived from the runs by default.
      trackers: where to show metrics besides metrics.jsonl.
      judge: of a run that is trained alone: may stop it early, with `StoppedEarly`.

    Returns:
      The contents of result.json. A loss that is not finite gives a result with status "diverged". Where another worker
      has been quicker and storage shows it to some processes only, as yet, the others return nothing.

    Raises:
      UserError: a directory holds another run, the source is another text or a damaged one, or the disk refuses.
      Held, LeaseLost: another worker trains one of the runs, or has taken it over.
    """
    intervals, stop = intervals or LoopIntervals.at(executor, runs), stop or clock().event()
    steps, tokens_per_step = runs[0].steps, runs[0].tokens_per_step * len(runs)
    began, paired = clock().monotonic(), list(zip(runs, directories, strict=True))
    for run, directory in paired:
        claim(run, source, directory)
    source.check()
    with ExitStack() as stack:
        leases = stack.enter_context(Leases(directories))
        if any_process((present := _present(paired)) is not None)[0]:  # another worker has been quicker
            return present or []
        forget_stopped(directories)
        checkpoints = [
            stack.enter_context(
                Checkpoints(directory / "checkpoints", intervals.background and len(runs) == 1, run_id=run.run_id)
            )
            for run, directory in paired
        ]
        first, state = _restore(executor, runs, checkpoints)
        logs = stack.enter_context(
            Logs(
                paired,
                first,
                executor.devices / len(runs),
                trackers,
                permitted=leases.check_here,
                starts=leases.generations,
                asked=Interrupted,
            )
        )
        windows = stack.enter_context(BatchPrefetcher(runs, source, intervals.chunk, executor.rows))
        diverged_at = executor.diverged_at(state, runs)
        saves = TimedSaves(checkpoints, logs, SaveTimer(intervals.checkpoint_s, intervals.mtbf_s))
        step, pace = first, Clock()
        while step < steps:
            chunk_began = clock().monotonic()
            count, window_RSBU = windows.at(step)
            state, histories = executor.train_chunk(state, window_RSBU, count, runs)
            pace.add(count, clock().monotonic() - chunk_began)
            diverged_at = executor.diverged_at(state, runs)
            step += count
            _between_chunks(leases)
            logs.write(step, {name: values[:, :count] for name, values in histories.items()}, pace.last_s)
            if diverged_at.all():
                break
            loss = float(np.mean(histories["loss"][diverged_at == 0, count - 1]))
            speed = count * tokens_per_step / pace.last_s
            left_s, share = pace.left_s(steps - step), mfu(runs[0], speed, executor.devices)
            observe(Progress(step, steps, loss, speed, left_s, share))
            stopping, due = any_process(stop.is_set() and step < steps, saves.is_due or step == steps)
            lost, why = (False, None) if stopping or step == steps else judged(judge, step, logs.flush)
            if stopping or due or lost:
                saves.save(step, executor.unstack(state, runs))
            if stopping or lost:
                saves.wait()
                if lost:
                    leases.check()
                    write_stopped(directories, runs, why)
                    raise StoppedEarly("stopped early" if why is None else why.words)
                raise Interrupted(f"stopped at step {step} of {steps}; start again to go on from there")
        endings = _endings(executor, runs, source, state, diverged_at)
        saves.wait()
        timing = {
            "wall_s": round(clock().monotonic() - began, 3),
            "resumed_from_step": first,
            "tokens_per_s": round((step - first) * tokens_per_step / pace.total_s) if pace.total_s else None,
            "runs_side_by_side": len(runs),
            "devices": executor.devices,
            "kernels": ", ".join(filter(None, (dispatch.decisions(), products.decisions()))),
        }
        leases.check()
        logs.finish()
        results = [record.finish(*of_run, ending, timing) for of_run, ending in zip(paired, endings, strict=True)]
        wait_for_all("results")
        return results


def _between_chunks(leases: Leases) -> None:
    """Checks that the directories are still ours, and gives back memory that the heap has grown by."""
    leases.check()
    release_growth()


def claim(run: Run, source: Source, directory: epath.Path) -> None:
    """Makes the run's directory, or checks that it is this run's; raises `UserError` otherwise."""
    if source.id != run.data:
        raise UserError(
            f"run {run.run_id} trains on {run.data.name!r} (sha256 {run.data.sha256[:12]}), "
            f"not on {source.id.name!r} (sha256 {source.id.sha256[:12]}); give the text it was planned with"
        )
    path, expected = directory / "run.json", described(run)
    with all_or_none():  # the others read what the first one writes
        refuse_link(directory)
        if is_first():
            with writing(directory):
                make_directory(directory)
            if not path.exists():
                write_json(path, expected)
    with all_or_none():
        if read_json(path, "remove it to let the run write it anew") != expected:
            raise UserError(f"{path} describes another run than {run.run_id}; use another directory")


def _present(paired: list[tuple[Run, epath.Path]]) -> list[dict[str, Any]] | None:
    """The results of all runs, None when one of them is missing."""
    found = [record.read_result(directory, run) for run, directory in paired]
    present = [result for result in found if result is not None]
    return present if len(present) == len(paired) else None


def _restore(executor: Executor, runs: list[Run], checkpoints: list[Checkpoints]) -> tuple[int, Any]:
    """The newest step that all runs have a sound checkpoint of, and their state there; else the beginning.

    Checkpoints of later steps are deleted. Raises `UserError`, before anything is, where one is another run's.
    """
    for of_run in checkpoints:
        of_run.check_owner()
    common = set.intersection(*(set(of_run.steps()) for of_run in checkpoints))
    shapes = executor.abstract_states(runs)  # those of a state would need its memory, beside that of the one read
    for step in sorted(common, reverse=True):
        states = [of_run.read(step, shape) for of_run, shape in zip(checkpoints, shapes, strict=True)]
        sound = [state for state in states if state is not None]
        if len(sound) == len(states):
            for of_run in checkpoints:
                of_run.forget_after(step)
            return step, executor.stack(sound)
        for of_run, state in zip(checkpoints, states, strict=True):
            if state is None:
                of_run.set_aside(step)
    if common:
        raise agreed(
            UserError(
                f"no checkpoint in {', '.join(str(of_run.directory) for of_run in checkpoints)} can be read; they were "
                "renamed to unreadable-*: start again to train from the beginning"
            )
        )
    for of_run in checkpoints:
        of_run.forget_after(0)
    return 0, executor.initial_state(runs)


def _endings(
    executor: Executor, runs: list[Run], source: Source, state: Any, diverged_at: np.ndarray
) -> list[record.Ending]:
    """Measurements of each run at the end of its training."""
    held_out, blocks = source.validation(runs[0].model.context)
    losses = _validation_losses(executor, runs, held_out, state)
    narrower = {width: _validation_losses(executor, runs, held_out, state, width) for width in _narrower(runs[0])}
    measures = executor.measures(state, runs)
    return [
        record.Ending(
            losses[number],
            blocks,
            int(diverged_at[number]),
            {name: float(of_runs[number]) for name, of_runs in measures.items()},
            source.bytes_per_symbol,
            {width: of_runs[number] for width, of_runs in narrower.items()},
        )
        for number in range(len(runs))
    ]


def _narrower(run: Run) -> tuple[int, ...]:
    """Widths of nested weights below the widest."""
    nested = nested_in(run.held)
    return () if nested is None else nested.widths[1:]


def _validation_losses(
    executor: Executor, runs: list[Run], window_NU: np.ndarray, state: Any, width: int | None = None
) -> np.ndarray:
    """Mean loss of every validation window in nats per token, `float64 (runs, windows)`; `width`: of nested weights."""
    count, batch = len(window_NU), runs[0].batch
    padded_NU = np.pad(window_NU, ((0, -count % batch), (0, 0)))  # cut off again below
    window_SBU = padded_NU.reshape(-1, batch, window_NU.shape[1])
    losses = executor.evaluate(state, window_SBU[:, executor.rows], runs, width)
    return losses.astype(np.float64).reshape(len(runs), -1)[:, :count]
