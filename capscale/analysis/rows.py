"""Rows in: sweep directories, tables in files of any kind, runs of trackers, and QuEST's published runs."""

from collections.abc import Collection
from typing import Any, NamedTuple

from etils import epath

from capscale.analysis.quest import is_quest, quest_records
from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.columns import Column
from capscale.analysis.reading.files import flattened, read_file
from capscale.analysis.reading.json_tables import flat
from capscale.analysis.reading.tensorboard import is_events, read_events
from capscale.analysis.reading.understand import understand
from capscale.analysis.reading.wandb import is_run_file, read_runs
from capscale.analysis.table import Remark, Table, make_table
from capscale.artifacts import STOPPED, check_result, read_stopped, sweep_listing
from capscale.errors import UserError
from capscale.files import is_there, parse_json, unreadable
from capscale.storage import files_below

SECONDS = "wall_s"
"""Column of the wall seconds that a run took."""
ABSENT = "no such file or sweep directory; give DIR of `capscale sweep --out DIR` or a table"


class Reading(NamedTuple):
    """A table, and what was understood of the file that it comes from."""

    table: Table
    columns: tuple[Column, ...]
    """Ours, and where each comes from."""
    extra: tuple[str, ...]
    """Other numeric columns, which come with the rows."""
    ignored: tuple[str, ...]
    """Columns that nothing is read from."""


def read(path: epath.PathLike, *, strict: bool = True, choices: Choices | None = None) -> Table:
    """The table at `path`; see `read_all`."""
    return read_all(path, strict=strict, choices=choices).table


def read_all(path: epath.PathLike, *, strict: bool = True, choices: Choices | None = None) -> Reading:
    """The table at `path`, with what was understood of its columns.

    A directory is a sweep, or holds runs of W&B or TensorBoard; of a file its suffix says what it is. A JSON list
    with QuEST's columns is recognised by them.

    Args:
      path: a file or directory, which may lie in object storage.
      strict: False lets rows of a file pass that look like unit mistakes, or of which many would be set aside.
      choices: what the reader says of columns, rows and words.

    Raises:
      UserError: naming the file and what to do.
    """
    path, choices = epath.Path(path), choices or Choices()
    if not is_there(path):
        raise UserError(f"{path}: {ABSENT}")
    if path.is_dir():
        if not (path / "sweep.json").exists() and (records := _tracked(path)):
            return _made(records, path, choices, strict=strict)
        return read_sweep(path, choices)
    if path.stat().length == 0:
        raise UserError(f"{path}: empty file; expected named columns N, D, loss, weights, activations")
    if is_events(path):
        return _made(read_events(path.parent, [path]), path, choices, strict=strict)
    if is_run_file(path):
        return _made([flat(record) for record in read_runs([path])], path, choices, strict=strict)
    cells = read_file(path, choices)
    if cells.records and is_quest(cells.records[0]):
        return _made(quest_records(cells.records), path, choices, strict=strict)
    cells = flattened(cells)
    remarks = tuple(Remark(path.name, note) for note in cells.notes)
    return _made(cells.records, path, choices, strict=strict, remarks=remarks)


def _made(
    records: list[dict[str, Any]],
    path: epath.Path,
    choices: Choices,
    *,
    strict: bool,
    remarks: tuple[Remark, ...] = (),
    context: dict[str, Any] | None = None,
) -> Reading:
    found = understand(records, choices, str(path))
    remarks = (*remarks, *found.remarks)
    table = make_table(found.records, str(path), strict=strict, remarks=remarks, context=context)
    return Reading(table, found.columns, found.extra, found.ignored)


def _tracked(directory: epath.Path) -> list[dict[str, Any]]:
    """Records of the runs that a tracker has left below a directory; none where there is none."""

    def refuse(error: OSError) -> None:
        raise UserError(unreadable(error.filename or directory, error)) from error

    files = list(files_below(directory, refuse))
    events, runs = [f for f in files if is_events(f)], [f for f in files if is_run_file(f)]
    if events and runs:
        raise UserError(f"{directory}: it holds runs of both TensorBoard and W&B; give the directory of one of them")
    return read_events(directory, events) if events else [flat(record) for record in read_runs(runs)]


def read_json(path: epath.Path, remedy: str) -> dict[str, Any]:
    """A JSON object, or UserError with the remedy."""
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as e:
        raise UserError(f"{path}: missing; {remedy}") from e
    except OSError as e:
        raise UserError(unreadable(path, e)) from e
    except ValueError as e:
        raise UserError(f"{path}: corrupted ({e}); {remedy}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object; {remedy}")
    return content


def _result(directory: epath.Path, run_id: str) -> list[dict[str, Any]]:
    """Rows of a run with its id, status and wall seconds: one, and one for each further slice of nested weights.

    Slices take no time of their own. Empty where the run has no result.
    """
    file = directory / "result.json"
    if not file.exists():
        return []
    remedy = f"delete {file.parent} and start the sweep again: only this run is trained"
    result = read_json(file, remedy)
    check_result(file, result, run_id, remedy)
    status, told = result.get("status"), [result["row"], *result.get("slices", [])]
    seconds = float((result.get("timing") or {}).get("wall_s") or 0.0)
    return [
        row
        | {"loss": row.get("loss") if status == "ok" else None, "run": run_id, "status": status}
        | {SECONDS: 0.0 if number else seconds}
        for number, row in enumerate(told)
    ]


def _why_missing(directory: epath.Path, is_early: bool) -> str:
    stopped = read_stopped(directory, directory.name) if is_early else None
    return "missing: not trained yet; start the sweep again" if stopped is None else f"left out: {stopped['words']}"


def read_sweep(directory: epath.PathLike, choices: Choices | None = None) -> Reading:
    """The rows of a sweep directory, with its command, versions, corpus and wall time as context.

    Runs that the sweep expects and that have no result, as yet or since they were stopped early, are remarks, and so
    are diverged ones. Its units are known:
    a run of fewer tokens than parameters is one. Raises UserError naming a result that is not as it was written, or is
    another run's.
    """
    directory = epath.Path(directory)
    if not is_there(path := directory / "sweep.json"):
        raise UserError(f"{path}: missing; give the DIR of `capscale sweep --out DIR`")
    sweep = sweep_listing(directory, "start the sweep again with another --out")
    expected = sweep["runs"]
    found = sorted(p.parent.name for p in (directory / "runs").glob("*/result.json"))
    early = {p.parent.name for p in (directory / "runs").glob(f"*/{STOPPED}")}
    remarks = [Remark(r, _why_missing(directory / "runs" / r, r in early)) for r in expected if r not in set(found)]
    rows, seconds = [], 0.0
    for run_id in found:
        own = _result(directory / "runs" / run_id, run_id)
        if expected and run_id not in expected:
            remarks.append(Remark(run_id, "kept, though this sweep does not list it"))
        seconds += sum(row.pop(SECONDS) for row in own)
        rows += own
    if not rows:
        raise UserError(f"{directory}: no finished run of {len(expected)}; start the sweep again")
    context = {**sweep, "training_seconds": seconds, "finished": len(found), "expected": len(expected)}
    return _made(rows, directory, choices or Choices(), strict=False, remarks=tuple(remarks), context=context)


def read_run_records(path: epath.PathLike, runs: Collection[str]) -> list[dict[str, Any]]:
    """Rows of the named runs, by their ids, in a sweep's directory or a table with a column `run`.

    Absent runs are left out; diverged ones have no loss. Raises UserError naming a result that is not as it was
    written, or a table without ids.
    """
    path = epath.Path(path)
    if path.is_dir():
        return [record for run in runs for record in _result(path / "runs" / run, run)]
    if not is_there(path):
        raise UserError(f"{path}: {ABSENT}")
    records = read_file(path, Choices()).records
    if any("run" not in record for record in records):
        raise UserError(f"{path}: its rows have no column run, by whose ids they are chosen")
    chosen = [record for record in records if str(record["run"]) in runs]
    return list(understand(chosen, Choices(), str(path)).records) if chosen else []
