"""Where runs that are trained side by side write what they measure: metrics, trackers, and the log of the start."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress

import numpy as np
from etils import epath

from capscale.train.distributed import is_first
from capscale.train.journal import Journal, process_told
from capscale.train.metrics import Metrics
from capscale.train.run import Run
from capscale.train.trackers import OpenBoard


class Logs:
    """Metrics, trackers and logs of runs, in the first process; a context manager.

    Each start of a run leaves a log that says where it went on from, what is done again since the last one, and how it
    ended: "done", "stopped" (asked to), or "failed". One that was killed has no end.

    Args:
      runs: each with its directory.
      first: step that they go on from.
      devices: how many a run has to itself.
      trackers: where to show metrics besides metrics.jsonl.
      permitted: see `capscale.train.metrics.Metrics`.
      starts: number of this start for each run.
      asked: type of what is raised where training was asked to stop.
    """

    def __init__(
        self,
        runs: Sequence[tuple[Run, epath.Path]],
        first: int,
        devices: float,
        trackers: Sequence[OpenBoard],
        *,
        permitted: Callable[[], None],
        starts: Sequence[int],
        asked: type[BaseException],
    ):
        self._metrics, self._boards, self._journals = [], [], []
        self._step, self._is_done, self._permitted, self._asked = first, False, permitted, asked
        with ExitStack() as stack:
            for (run, directory), number in zip(runs, starts, strict=True) if is_first() else ():
                metrics = Metrics(directory / "metrics.jsonl", first, devices, permitted=permitted)
                self._metrics.append(stack.enter_context(metrics))
                opened = [open_board(run, directory, first) for open_board in trackers]
                self._boards.append([stack.enter_context(closing(board)) for board in opened])
                again = {"again_steps": metrics.dropped.steps, "again_device_seconds": metrics.dropped.device_s}
                self._journals.append(Journal(directory, number))
                self._journals[-1].tell("start", step=first, devices=devices, **again, **process_told())
            self._stack = stack.pop_all()

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        self._stack.__exit__(kind, error, *rest)  # pyright: ignore[reportArgumentType]
        if error is not None and not self._is_done:
            how = {"error": " ".join(str(error).split())[:2000] or type(error).__name__}
            # What stops it is not to hide the error; and whoever has lost the run writes nothing.
            with suppress(Exception):
                self._permitted()
                for journal in self._journals:
                    journal.tell("stopped" if isinstance(error, self._asked) else "failed", step=self._step, **how)

    def write(self, step: int, histories: dict[str, np.ndarray], seconds: float) -> None:
        """Metrics of every run at each step of a chunk that ended at `step`, `(runs, steps)`, and its seconds."""
        self._step = step
        for number, (metrics, boards) in enumerate(zip(self._metrics, self._boards, strict=True)):
            finite = metrics.write(step, {name: values[number] for name, values in histories.items()}, seconds)
            for board in boards:
                board.write(step, finite)

    def flush(self) -> None:
        """Stores every line, ahead of a checkpoint: whoever resumes from that finds the lines up to its step."""
        for metrics in self._metrics:
            metrics.flush()

    def finish(self) -> None:
        """Makes one file of each run's lines, ahead of its result."""
        for metrics in self._metrics:
            metrics.finish()
        self._is_done = True
        for journal in self._journals:
            journal.tell("done", step=self._step)
