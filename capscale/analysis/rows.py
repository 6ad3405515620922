"""Rows in: sweep directories, CSV / JSON / JSONL / Parquet tables, and QuEST's published runs."""

import io
from typing import Any

import pandas as pd
from etils import epath

from capscale.analysis.quest import is_quest, quest_records
from capscale.analysis.reading.choices import Choices
from capscale.analysis.table import Remark, Table, make_table
from capscale.artifacts import DIGEST, check_result, check_seal
from capscale.errors import UserError
from capscale.files import is_there, parse_json, plain_name, unreadable


def read(path: epath.PathLike, *, strict: bool = True, choices: Choices | None = None) -> Table:
    """The table at `path`: a sweep directory, or a file by its suffix.

    A JSON list with QuEST's columns is recognised by them. `strict=False` lets rows of a file pass that look like
    unit mistakes. Raises UserError naming the file and what to do.
    """
    path = epath.Path(path)
    if not is_there(path):
        raise UserError(f"{path}: no such file or sweep directory; give DIR of `capscale sweep --out DIR` or a table")
    if path.is_dir():
        return read_sweep(path)
    if path.stat().length == 0:
        raise UserError(f"{path}: empty file; expected named columns N, D, loss, weights, activations")
    records = _records(path)
    if records and is_quest(records[0]):
        records = quest_records(records)
    return make_table(records, str(path), strict=strict)


def _records(path: epath.Path) -> list[dict[str, Any]]:
    try:
        match path.suffix.lower():
            case ".csv":
                return _plain(pd.read_csv(io.BytesIO(path.read_bytes()), comment="#"))
            case ".jsonl":
                return _objects(_lines(path), path)
            case ".json":
                return _objects(parse_json(path.read_bytes()), path)
            case ".parquet":
                return _plain(pd.read_parquet(io.BytesIO(path.read_bytes())))
    except ImportError as e:
        raise UserError(f"{path}: reading Parquet needs pyarrow: pip install 'capscale[parquet]'") from e
    except OSError as e:
        raise UserError(unreadable(path, e)) from e
    except ValueError as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{path}: not a readable {path.suffix[1:]} file: {e}") from e
    raise UserError(f"{path}: unknown suffix {path.suffix!r}; use .csv, .json, .jsonl or .parquet")


def _lines(path: epath.Path) -> list[Any]:
    """The values of JSON lines; `ValueError` names the line that is none."""
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            found += [parse_json(line)] if line.strip() else []
        except ValueError as e:
            raise ValueError(f"line {number}: {e}") from e
    return found


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in record.items()} for record in frame.to_dict("records")]


def _objects(content: Any, path: epath.Path) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise UserError(f"{path}: expected a list of JSON objects, one per run")
    return content


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


def read_sweep(directory: epath.PathLike) -> Table:
    """The rows of a sweep directory, with its command, versions, corpus and wall time as context.

    Runs that the sweep expects and that have no result yet are remarks, and so are diverged ones. Its units are known:
    a run of fewer tokens than parameters is one. Raises UserError naming a result that is not as it was written, or is
    another run's.
    """
    directory = epath.Path(directory)
    path, remedy = directory / "sweep.json", "start the sweep again with another --out"
    sweep = read_json(path, "give the DIR of `capscale sweep --out DIR`")
    if not isinstance(listed := sweep.get("runs", []), list):
        raise UserError(f"{path}: runs is {str(listed)[:100]!r}, not a list; {remedy}")
    expected = [plain_name(run_id, path, "an entry of runs", remedy) for run_id in listed]
    if DIGEST in sweep:
        check_seal(path, sweep, remedy)
    found = sorted(p.parent.name for p in (directory / "runs").glob("*/result.json"))
    remarks = [Remark(r, "missing: not trained yet; start the sweep again") for r in expected if r not in set(found)]
    rows, seconds = [], 0.0
    for run_id in found:
        file = directory / "runs" / run_id / "result.json"
        remedy = f"delete {file.parent} and start the sweep again: only this run is trained"
        result = read_json(file, remedy)
        check_result(file, result, run_id, remedy)
        row, timing = result["row"], result.get("timing") or {}
        if expected and run_id not in expected:
            remarks.append(Remark(run_id, "kept, though this sweep does not list it"))
        loss = row.get("loss") if result.get("status") == "ok" else None
        rows.append({**row, "loss": loss, "run": run_id, "status": result.get("status")})
        seconds += float(timing.get("wall_s") or 0.0)
    if not rows:
        raise UserError(f"{directory}: no finished run of {len(expected)}; start the sweep again")
    context = {**sweep, "training_seconds": seconds, "finished": len(rows), "expected": len(expected)}
    return make_table(rows, str(directory), strict=False, remarks=tuple(remarks), context=context)
