"""A sweep: the runs of an experiment, and the directory that holds them."""

import difflib
import importlib
import pkgutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from etils import epath

import capscale.experiments
from capscale.artifacts import DIGEST, check_seal, sealed
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.files import (
    TEMPORARY,
    check_checkpoints,
    children,
    is_there,
    make_directory,
    read_json,
    refuse_link,
    write_json,
    writing,
)
from capscale.models.ladder import Ladder, ladder
from capscale.outside import errors_named, load_file
from capscale.sweep.display import run_name
from capscale.train.run import Run

SCHEMA = 1
"""Version of sweep.json."""


@dataclass(frozen=True)
class Sweep:
    """The runs of one experiment on one ladder and text, in the order they are to be trained."""

    experiment: str
    ladder: Ladder
    data: DataId
    runs: tuple[Run, ...]

    def directory_of(self, run: Run, out: epath.Path) -> epath.Path:
        """Where a run of the sweep in `out` lives."""
        return out / "runs" / run.run_id


def plan(experiment: str, ladder_name: str, data: DataId) -> Sweep:
    """The sweep of an experiment: a name under `experiments/`, or the path of a Python file of your own.

    The file defines `runs(ladder: Ladder, data: DataId) -> list[Run]`. Naming a file runs its code.

    Raises:
      UserError: unknown experiment or ladder, a file without `runs`, no runs, or the same run twice.
    """
    module, of_ladder = _load(experiment), ladder(ladder_name)
    file = str(module.__file__)
    if not callable(getattr(module, "runs", None)):
        raise UserError(f"experiment {experiment!r} defines no function runs(ladder, data) -> list[Run]; add one")
    with _named(experiment, file):
        runs = module.runs(of_ladder, data)
    if not isinstance(runs, list | tuple):
        raise UserError(f"runs() of experiment {experiment!r} returned {_short(runs)}, not a list of Run")
    for run in runs:
        if not isinstance(run, Run):
            raise UserError(f"runs() of experiment {experiment!r} returned a list with {run!r}, not a list of Run")
    if not runs:
        raise UserError(f"experiment {experiment!r} has no runs on the {ladder_name} ladder; choose another ladder")
    seen: dict[str, Run] = {}
    for run in runs:
        if run.run_id in seen:
            raise UserError(f"experiment {experiment!r} lists one run twice: {run}; give it another seed or drop it")
        seen[run.run_id] = run
    return Sweep(Path(experiment).stem, of_ladder, data, tuple(runs))


def check_names(experiment: str, ladder_name: str) -> None:
    """Raises `UserError` for an experiment or a ladder that is not there, ahead of a text, which takes long."""
    ladder(ladder_name)
    if not experiment.endswith(".py"):
        _check_known(experiment)
    elif not Path(experiment).is_file():
        _load(experiment)


def known_experiments() -> list[str]:
    """Names of the experiments that ship with capscale."""
    return sorted(module.name for module in pkgutil.iter_modules(capscale.experiments.__path__))


def _named(experiment: str, file: str) -> AbstractContextManager[None]:
    """Errors of an experiment's code, as a `UserError` that names the line of its file."""
    return errors_named(f"experiment {experiment!r}", file, own=experiment.endswith(".py"))


def _load(experiment: str) -> ModuleType:
    if experiment.endswith(".py"):
        return load_file(Path(experiment), "experiment")
    _check_known(experiment)
    return importlib.import_module(f"capscale.experiments.{experiment}")


def _check_known(experiment: str) -> None:
    if experiment not in known_experiments():
        close = difflib.get_close_matches(experiment, known_experiments(), n=3, cutoff=0.3) or known_experiments()
        raise UserError(
            f"experiment {experiment!r} is unknown; did you mean {', '.join(close)}? "
            "Give one of these names or the path of a .py file"
        )


def open_directory(sweep: Sweep, out: epath.Path, command: str, versions: dict[str, str]) -> None:
    """Makes `out` the directory of this sweep, or checks that it is; `UserError` if another sweep lives there, or no
    checkpoints can.

    `sweep.json` records the experiment, the text and the expected runs with their planned FLOPs; it is written once.
    """
    check_checkpoints(out)
    path = out / "sweep.json"
    identity = {
        "schema": SCHEMA,
        "experiment": sweep.experiment,
        "ladder": sweep.ladder.name,
        "data": {"name": sweep.data.name, "sha256": sweep.data.sha256, "vocabulary": sweep.data.vocabulary},
        "runs": [run.run_id for run in sweep.runs],
    }
    with writing(out):
        is_new = not path.exists()
    if is_new:
        with writing(out):
            make_directory(out)
            occupied = any(not child.name.endswith(TEMPORARY) for child in children(out))
        if occupied and not path.exists():  # unless another launcher of this sweep has just opened it
            raise UserError(f"{out} is not empty and holds no sweep.json; choose an empty or new --out")
        planned = {run.run_id: {"name": run_name(run), "steps": run.steps, "flops": run.flops} for run in sweep.runs}
        content = identity | {"planned": planned, "command": command, "versions": versions}
        write_json(path, sealed(content), new=True)
    refuse_link(out / "runs")
    found = read_json(path, "move it away, or choose another --out")
    for field, expected in identity.items():
        if found.get(field) != expected:
            told = f"its {field} is {_short(found.get(field))}, this sweep's is {_short(expected)}"
            if field == "runs" and isinstance(found.get(field), list):
                told = _others(found[field], identity["runs"])
            raise UserError(f"{out} holds another sweep: {told}; choose another --out")
    if DIGEST in found:  # which sweeps of earlier versions have not
        check_seal(path, found, "restore it, or choose another --out")


def _others(listed: list[Any], wanted: list[str]) -> str:
    """How the runs of a sweep differ from those that its directory lists."""
    known = sum(run_id in listed for run_id in wanted)
    return (
        f"of this sweep's {len(wanted)} runs it lists {known}, and {len(listed)} in all, as after an edit of the "
        "experiment, or of code that its formats use"
    )


def check_open(out: epath.Path) -> None:
    """Raises `UserError` when the directory of a sweep that was opened is not there any more.

    A directory that somebody removed is not made again: without its sweep.json it would be nobody's.
    """
    if not is_there(out / "sweep.json"):
        raise UserError(
            f"{out} went away while it was worked in: it holds no sweep.json any more; nothing was written there "
            "since. Put it back, or start the sweep again to train all runs anew"
        )


def _short(value: Any) -> str:
    text = f"{len(value)} runs" if isinstance(value, list) else repr(value)
    return text if len(text) < 100 else text[:97] + "..."
