"""A sweep: the runs of an experiment, and the directory that holds them."""

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from etils import epath

import capscale.experiments
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import Ladder
from capscale.models.ladder_files import find_ladder
from capscale.outside import errors_named, load_file
from capscale.sweep.selection import WHOLE, Selection
from capscale.train.run import Run


@dataclass(frozen=True)
class Sweep:
    """The runs of one experiment on one ladder and text, in the order they are to be trained.

    Attributes:
      selection: by which `runs` were taken from the experiment's.
      every: ids of all runs that the experiment has, where a selection was made.
    """

    experiment: str
    ladder: Ladder
    data: DataId
    runs: tuple[Run, ...]
    selection: Selection = WHOLE
    every: tuple[str, ...] = ()

    def directory_of(self, run: Run, out: epath.Path) -> epath.Path:
        """Where a run of the sweep in `out` lives."""
        return out / "runs" / run.run_id


@dataclass(frozen=True)
class Experiment:
    """An experiment that was found, on a ladder, before its text is read.

    Attributes:
      given: its name or path as it was given.
      module: what defines its function `runs`.
      ladder: the sizes that it is asked for.
    """

    given: str
    module: ModuleType
    ladder: Ladder

    def plan(self, data: DataId, selection: Selection = WHOLE) -> Sweep:
        """The selected runs on a text.

        Raises:
          UserError: no runs, the same run twice, a size that no run has, or what the code of the experiment raises.
        """
        name, on = f"experiment {self.given!r}", self.ladder.name
        with errors_named(name, str(self.module.__file__), own=self.given.endswith(".py")):
            runs = self.module.runs(self.ladder, data)
        if not isinstance(runs, list | tuple):
            raise UserError(f"runs() of {name} returned {short(runs)}, not a list of Run")
        for run in runs:
            if not isinstance(run, Run):
                raise UserError(f"runs() of {name} returned a list with {run!r}, not a list of Run")
        if not runs:
            raise UserError(f"{name} has no runs on the {on} ladder; choose another ladder")
        seen: set[str] = set()
        for run in runs:
            if run.run_id in seen:
                raise UserError(f"{name} lists one run twice: {run}; give it another seed or drop it")
            seen.add(run.run_id)
        stem = Path(self.given).stem
        if selection == WHOLE:
            return Sweep(stem, self.ladder, data, tuple(runs))
        every = tuple(run.run_id for run in runs)
        return Sweep(stem, self.ladder, data, selection.of(runs, self.given, on), selection, every)


def find_experiment(experiment: str, ladder_name: str) -> Experiment:
    """The experiment of a name under `experiments/`, or of the path of a Python file, whose code it runs.

    The file defines `runs(ladder: Ladder, data: DataId) -> list[Run]`. `ladder_name` may be the path of a file too
    (`capscale.models.ladder_files`).

    Raises:
      UserError: unknown experiment or ladder, or a file without `runs`.
    """
    if not experiment.endswith(".py"):
        _check_known(experiment)
    ladder = find_ladder(ladder_name)
    module = _load(experiment)
    if not callable(getattr(module, "runs", None)):
        raise UserError(f"experiment {experiment!r} defines no function runs(ladder, data) -> list[Run]; add one")
    return Experiment(experiment, module, ladder)


def plan(experiment: str, ladder_name: str, data: DataId, selection: Selection = WHOLE) -> Sweep:
    """The sweep of an experiment by its name; see `find_experiment` and `Experiment.plan`."""
    return find_experiment(experiment, ladder_name).plan(data, selection)


def known_experiments() -> list[str]:
    """Names of the experiments that ship with capscale."""
    return sorted(module.name for module in pkgutil.iter_modules(capscale.experiments.__path__))


def _load(experiment: str) -> ModuleType:
    if experiment.endswith(".py"):
        return load_file(Path(experiment), "experiment")
    return importlib.import_module(f"capscale.experiments.{experiment}")


def _check_known(experiment: str) -> None:
    if experiment not in known_experiments():
        close = difflib.get_close_matches(experiment, known_experiments(), n=3, cutoff=0.3) or known_experiments()
        raise UserError(
            f"experiment {experiment!r} is unknown; did you mean {', '.join(close)}? "
            "Give one of these names or the path of a .py file"
        )


def short(value: Any) -> str:
    """A value of a message, cut to a hundred letters."""
    text = f"{len(value)} runs" if isinstance(value, list) else repr(value)
    return text if len(text) < 100 else text[:97] + "..."
