"""Runs of a sweep that have no result yet, and which of them one task trains: read without the text, or a device."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from capscale.artifacts import read_stopped, sweep_listing
from capscale.data.corpus import DataId
from capscale.data.load import unread_id
from capscale.errors import Unavailable, UserError
from capscale.files import is_there
from capscale.sweep.directory import DAMAGED, check_same
from capscale.sweep.plan import Experiment, Sweep
from capscale.sweep.selection import Selection
from capscale.train.record import read_result
from capscale.train.run import Run
from capscale.train.step import Program

LOOKS = 16
"""Results that are looked for at a time: object storage takes a tenth of a second for each."""


def planned_in(experiment: Experiment, out: epath.Path, selection: Selection) -> Sweep | None:
    """The selected runs on the text of the sweep in `out`, as its sweep.json names it; None where none has begun.

    Raises:
      UserError: another sweep lives there, or this one before an edit.
    """
    if not is_there(out / "sweep.json"):
        return None
    found = sweep_listing(out, DAMAGED).get("data")
    if not isinstance(found, dict) or set(found) != {"name", "sha256", "vocabulary"}:
        raise UserError(f"{out / 'sweep.json'} names no text, or not as it should; {DAMAGED}")
    data = DataId(found["name"], found["sha256"], found["vocabulary"])
    sweep = experiment.plan(data, selection)
    check_same(sweep, out)
    return sweep


def missing_indices(experiment: Experiment, out: epath.Path, selection: Selection, *, go_on: bool = True) -> list[int]:
    """Places of the runs without a result in the list of the selected ones; all of them before a sweep has begun.

    A result that is damaged counts as missing: the worker that meets it says what is wrong. `go_on`: so do runs that
    were stopped early.
    """
    sweep = planned_in(experiment, out, selection)
    if sweep is None:
        return list(range(len(experiment.plan(unread_id(None), selection).runs)))
    with ThreadPoolExecutor(LOOKS) as pool:
        done = list(pool.map(lambda run: _is_over(sweep, run, out, go_on), sweep.runs))
    return [index for index, is_done in enumerate(done) if not is_done]


def _is_over(sweep: Sweep, run: Run, out: epath.Path, go_on: bool) -> bool:
    directory = sweep.directory_of(run, out)
    try:
        has_result = read_result(directory, run) is not None
        return has_result or (not go_on and read_stopped(directory, run.run_id) is not None)
    except Unavailable:
        raise
    except UserError:
        return False


def tasks(runs: Sequence[Run], per_task: int) -> list[list[int]]:
    """All runs in tasks of at most so many, by their indices: a partition that does not depend on what is done.

    Runs of a task have one size, so that they take about as long and as much memory; and those of one program, which
    differ in seed, learning rate and length only, stand next to each other.
    """
    if per_task < 1:
        raise UserError(f"--runs-per-task {per_task} must be at least 1")
    sizes: dict[str, dict[Program, list[int]]] = {}
    for index, run in enumerate(runs):
        sizes.setdefault(run.size, {}).setdefault(Program.of(run), []).append(index)
    found = []
    for programs in sizes.values():
        ordered = [index for indices in programs.values() for index in indices]
        found += [ordered[start : start + per_task] for start in range(0, len(ordered), per_task)]
    return sorted(found)
