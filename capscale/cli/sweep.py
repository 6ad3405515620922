"""Commands that train: sweep and run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from capscale.cli.device_options import check_groups
from capscale.cli.selecting import Selecting
from capscale.cli.training import Grouped, SideBySide, train
from capscale.errors import UserError

if TYPE_CHECKING:
    from capscale.sweep import plan
    from capscale.train import run


@dataclass(kw_only=True)
class Sweep(Selecting, SideBySide):
    """Train every run of an experiment that has no result yet.

    Started again, it trains only what is missing. Ctrl-C saves checkpoints and exits with status 130, SIGTERM with 143;
    a second one ends at once. 75 says that what failed may pass by itself, 2 that it will not.
    Any number of these may work on one --out at once, on any number of machines: each run is trained by one.

    Examples:
      capscale sweep capacity_demo --out runs/demo
      capscale sweep my_experiment.py --ladder micro --text corpus.txt --out runs/mine
      capscale sweep paper_capacity --ladder micro --out runs/paper --dry-run
      capscale sweep capacity_demo --sizes nano-8 nano-12 --seeds 0 1 2 --out runs/demo
      capscale sweep capacity_demo --ladder-file my_ladder.json --out runs/mine
      capscale sweep my_experiment.py --ladder micro --text shards --out runs/mine --mode processes
      capscale sweep my_experiment.py --ladder micro --text shards --out gs://bucket/mine --launcher ray
    """

    experiment: Annotated[str, tyro.conf.Positional]
    """Name of an experiment, or the path of a .py file that defines runs(ladder, data)."""
    out: str
    """Directory of the sweep: made if absent, continued if it holds this sweep."""
    stop_losers: bool = False
    """Stop runs early that cannot win any more: of those that differ in the learning rate, or other settings of the
    optimizer, and in nothing else, each that is further behind the best finished one than that one still gained from
    there on. They keep their checkpoint, and go on when started without this. One run at a time on accelerators."""
    dry_run: bool = False
    """List the runs and what they cost, and train nothing."""

    def __call__(self) -> int:
        """Trains; the exit status tells whether all results are there."""
        self.check_launcher()
        if self.dry_run:
            from capscale.cli.listing import show_runs

            return show_runs(self.experiment, self.ladder, self.selection, self.text, self.out)
        return train(self, self.experiment, self.out, self.mode, stop_losers=self.stop_losers)


@dataclass(kw_only=True)
class Run(Selecting, Grouped):
    """Train one run of an experiment, or several, by their places in the list: the unit of every launcher.

    Idempotent: a run that has a result is left alone.

    Examples:
      capscale run capacity_demo --index 3 --out runs/demo
      capscale run capacity_demo --index 3 4 5 --out runs/demo
    """

    experiment: Annotated[str, tyro.conf.Positional]
    """Name of an experiment, or the path of a .py file that defines runs(ladder, data)."""
    out: str
    """Directory of the sweep: made if absent, continued if it holds this sweep."""
    index: tuple[int, ...]
    """Places of the runs in the experiment's list, from 0: trained one after the other, or at once where --mode says
    so."""
    mode: Literal["auto", "population", "mesh", "processes"] = "auto"
    """How runs use the devices. By population, runs that differ in seed and learning rate only are trained at once, as
    auto does on accelerators; by mesh each has all devices; by processes --devices-per-run of them, in a process that
    sees these alone."""
    stop_losers: bool = False
    """Stop runs early that cannot win any more: see `capscale sweep --help`."""

    def __call__(self) -> int:
        """Trains the runs; see `Sweep`."""

        def chosen(planned: "plan.Sweep") -> "Sequence[run.Run]":
            count = len(planned.runs)
            for index in self.index:
                if not 0 <= index < count:
                    raise UserError(f"--index {index} is not one of the {count} runs 0..{count - 1}")
            return [planned.runs[index] for index in dict.fromkeys(self.index)]

        if not self.index:
            raise UserError("--index names no run; give the place of one, from 0")
        if self.devices_per_run > 1 and self.mode != "processes":
            raise UserError(f"--devices-per-run {self.devices_per_run} of `run` is for --mode processes; drop it")
        check_groups(self.devices_per_run, self.mode, joins=self.joins)
        return train(self, self.experiment, self.out, self.mode, chosen, stop_losers=self.stop_losers)
