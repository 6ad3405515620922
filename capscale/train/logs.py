"""Where runs that are trained side by side write what they measure: each its metrics, and its trackers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import numpy as np
from etils import epath

from capscale.train.distributed import is_first
from capscale.train.metrics import Metrics
from capscale.train.run import Run
from capscale.train.trackers import OpenBoard


class Logs:
    """Metrics and trackers of runs, in the first process; a context manager.

    Args:
      runs: each with its directory.
      first: step that they go on from.
      devices: how many a run has to itself.
      trackers: where to show metrics besides metrics.jsonl.
      permitted: see `capscale.train.metrics.Metrics`.
    """

    def __init__(
        self,
        runs: Sequence[tuple[Run, epath.Path]],
        first: int,
        devices: float,
        trackers: Sequence[OpenBoard],
        permitted: Callable[[], None],
    ):
        self._metrics, self._boards = [], []
        with ExitStack() as stack:
            for run, directory in runs if is_first() else ():
                metrics = Metrics(directory / "metrics.jsonl", first, devices, permitted=permitted)
                self._metrics.append(stack.enter_context(metrics))
                opened = [open_board(run, directory, first) for open_board in trackers]
                self._boards.append([stack.enter_context(closing(board)) for board in opened])
            self._stack = stack.pop_all()

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)  # pyright: ignore[reportArgumentType]

    def write(self, step: int, histories: dict[str, np.ndarray], seconds: float) -> None:
        """Metrics of every run at each step of a chunk that ended at `step`, `(runs, steps)`, and its seconds."""
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
