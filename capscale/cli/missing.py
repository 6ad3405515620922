"""The command that prints which runs of a sweep have no result: what launch files submit."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from capscale.cli.selecting import LadderName, Selecting


@dataclass(kw_only=True)
class Missing(Selecting):
    """Print the runs that have no result in --out yet, by the --index of `capscale run`: a line a task.

    Prints nothing where every run has one. Neither the text nor a device is needed; --out may be object storage.

    Examples:
      capscale missing capacity_demo --out runs/demo
      capscale missing paper_capacity --ladder paper --sizes 30M --out gs://bucket/paper --runs-per-task 4
    """

    experiment: Annotated[str, tyro.conf.Positional]
    """Name of an experiment, or the path of a .py file that defines runs(ladder, data)."""
    out: str
    """Directory of the sweep."""
    ladder: LadderName = "nano"
    runs_per_task: int = 1
    """Most runs on a line: a task trains runs of one size, and keeps them whatever is done of the sweep."""
    stop_losers: bool = False
    """Leave out runs that were stopped early, as `capscale run --stop-losers` does."""

    def __call__(self) -> int:
        """Prints a line for every task of which some run is missing."""
        from etils import epath

        from capscale.data.load import unread_id
        from capscale.sweep.missing import missing_indices, tasks
        from capscale.sweep.plan import find_experiment

        experiment = find_experiment(self.experiment, self.ladder)
        every = tasks(experiment.plan(unread_id(None), self.selection).runs, self.runs_per_task)
        missing = set(missing_indices(experiment, epath.Path(self.out), self.selection, go_on=not self.stop_losers))
        for task in every:
            if missing & set(task):
                print(*task)
        return 0
