"""When a checkpoint is due: as often as failures make it worth its time, and no more."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from capscale.clock import clock
from capscale.train.checkpoint import Checkpoints
from capscale.train.distributed import is_first
from capscale.train.logs import Logs

FIRST_S = 20.0
"""Seconds to the first checkpoint of a process, which is how long one takes to be known."""
MOST = 0.02
"""Largest share of the time that checkpoints take."""
MTBF_S = 24 * 3600.0
"""Seconds between failures that are assumed unless said otherwise: an assumption, not a measurement."""


class Saving(NamedTuple):
    """How often checkpoints are written.

    Attributes:
      interval_s: seconds between them; None for those of `interval_between`.
      mtbf_s: mean seconds between failures that are assumed.
    """

    interval_s: float | None = None
    mtbf_s: float = MTBF_S


BY_TIME = Saving()
"""As often as their own time says."""


def interval_between(save_s: float, mtbf_s: float) -> float:
    """Seconds between checkpoints that lose least: `sqrt(2 C M)`, `C / MOST` at least.

    Young (1974, doi:10.1145/361147.361115) adds what checkpoints of C seconds cost to what failures every M seconds do,
    half an interval each. Daly's terms of higher order (2006, doi:10.1016/j.future.2004.11.016) are C / 3 and less.

    Args:
      save_s: C, seconds from the start of a checkpoint until it is complete.
      mtbf_s: M, mean seconds between failures.

    Example:
      >>> round(interval_between(15, 24 * 3600)), interval_between(100, 3600)
      (1610, 5000.0)
    """
    return max(math.sqrt(2 * save_s * mtbf_s), save_s / MOST)


class SaveTimer:
    """Says when a checkpoint is due, from how long those of this process have taken.

    Args:
      fixed_s: seconds between checkpoints; None for those of `interval_between`.
      mtbf_s: mean seconds between failures that are assumed.
      now: seconds of a clock; of the one in use by default.
    """

    def __init__(self, fixed_s: float | None, mtbf_s: float = MTBF_S, now: Callable[[], float] | None = None):
        self._fixed_s, self._mtbf_s, self._now = fixed_s, mtbf_s, now or clock().monotonic
        self._since, self._writing = self._now(), False
        self._seconds: list[float] = []

    @property
    def interval_s(self) -> float:
        """Seconds from one checkpoint to the next: between their beginnings where fixed, else from an end on."""
        if self._fixed_s is not None:
            return self._fixed_s
        if not self._seconds:
            return FIRST_S
        # The mean of all: one that a store has delayed is not to put off the next for hours.
        return interval_between(sum(self._seconds) / len(self._seconds), self._mtbf_s)

    @property
    def is_due(self) -> bool:
        """Whether to begin another one now.

        At an interval that is fixed, whatever the one before is at: training waits for it. Otherwise never while one is
        being written.
        """
        if self._fixed_s is None and self._writing:
            return False
        return self._now() - self._since > self.interval_s

    def begin(self) -> None:
        """A checkpoint is begun."""
        self._since, self._writing = self._now(), True

    def complete(self) -> None:
        """The checkpoint that was begun, if any, is complete."""
        if self._writing:
            self._seconds.append(self._now() - self._since)
            self._writing = False
            if self._fixed_s is None:
                self._since = self._now()


class TimedSaves:
    """Checkpoints of runs that are trained side by side, written together when they are due.

    Args:
      checkpoints: of each run.
      logs: stored ahead of every checkpoint.
      timer: says when one is due.
    """

    def __init__(self, checkpoints: Sequence[Checkpoints], logs: Logs, timer: SaveTimer):
        self._checkpoints, self._logs, self._timer = checkpoints, logs, timer

    @property
    def is_due(self) -> bool:
        """Whether one is due, by the clock of the first process: each would have an interval of its own."""
        if not any(of_run.is_saving for of_run in self._checkpoints):
            self._timer.complete()
        return is_first() and self._timer.is_due

    def save(self, step: int, states: Sequence[Any]) -> None:
        """Begins to save the state of each run; ends with it where that is not done in the background."""
        self._timer.begin()
        self._logs.flush()
        for of_run, state in zip(self._checkpoints, states, strict=True):
            of_run.save(step, state)
        if not any(of_run.is_saving for of_run in self._checkpoints):
            self._timer.complete()

    def wait(self) -> None:
        """Until every save that was started is on disk; raises what stopped one."""
        for of_run in self._checkpoints:
            of_run.wait()
