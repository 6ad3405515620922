"""Runs that other processes train: which of them are left to do, and those that are over, counted and shown."""

from dataclasses import dataclass, field

from etils import epath

from capscale.sweep.display import Display
from capscale.sweep.local import missing_runs, unstopped_runs, why_stopped
from capscale.sweep.outcome import Outcome
from capscale.sweep.plan import Sweep
from capscale.train.record import read_result
from capscale.train.run import Run


@dataclass(frozen=True)
class Endings:
    """Runs of a sweep, by what their workers leave in its directory.

    Attributes:
      sweep: the runs.
      out: directory opened for this sweep.
      display: shown results, and runs that were stopped early.
      stopping: workers stop runs early (`capscale run --stop-losers`), and leave those alone that were: they are over.
      outcome: counts both.
    """

    sweep: Sweep
    out: epath.Path
    display: Display
    stopping: bool = False
    outcome: Outcome = field(default_factory=Outcome)

    def left(self) -> list[Run]:
        """The runs to train, in the order in which that is best; the others are counted. To be called once, first."""
        find = unstopped_runs if self.stopping else missing_runs
        left = find(self.sweep, self.out, self.outcome)
        self.display.begin(total=len(self.sweep.runs), present=self.outcome.present, stopped=self.outcome.stopped)
        return left

    def is_over(self, run: Run) -> bool:
        """Whether a run has a result or was stopped early, and is counted now; `UserError` for a damaged result."""
        directory = self.sweep.directory_of(run, self.out)
        result = read_result(directory, run)
        if result is not None:
            self.outcome.trained += 1
            self.outcome.diverged += result["status"] == "diverged"
            self.display.finished(run, result)
            return True
        why = why_stopped(directory, run) if self.stopping else None
        if why is not None:
            self.outcome.stopped += 1
            self.display.stopped(run, why)
        return why is not None

    def fails(self, why: str, *, passing: bool = False) -> None:
        """Counts a failure, and whether it may pass by itself."""
        self.outcome.failed.append(why)
        self.outcome.passing += passing
