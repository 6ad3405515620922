"""JSON as records: lists of objects, pandas' orientations, and objects that hold a list of runs."""

from collections.abc import Mapping
from typing import Any

from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.columns import find_columns
from capscale.errors import UserError

EXPECTED = (
    'expected a list of JSON objects, one per run, an object that holds one ({"runs": [...]}), or what pandas writes '
    "(records, columns, index, split, table)"
)
DEEPEST = 8
"""Levels of objects within a record whose values are read as columns, `config.model.n_params`."""


def records_of(content: Any, choices: Choices) -> list[dict[str, Any]]:
    """The records of a JSON value.

    Args:
      content: as it was parsed.
      choices: names of columns that the reader has said; with the known ones they tell columns from rows.

    Raises:
      UserError: it is of none of the kinds that are read, or holds several lists of objects.
    """
    if isinstance(content, dict) and content:
        found = _of_object(content, choices)
    else:
        found = content if isinstance(content, list) and all(isinstance(record, dict) for record in content) else None
    if found is None:
        raise UserError(EXPECTED)
    return found


def _of_object(content: dict[str, Any], choices: Choices) -> list[dict[str, Any]] | None:
    """Records of an object; None where it is of no known orientation."""
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):
        return _split(content["columns"], content["data"])
    lists = {k: v for k, v in content.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)}
    if len(lists) > 1:
        raise UserError(f"it holds several lists of objects, {', '.join(sorted(lists))}; give a file of one of them")
    if lists:
        # pandas' table has its schema beside it, which names its index; others have what else they know of the runs.
        schema = content.get("schema")
        index = schema.get("primaryKey", []) if isinstance(schema, dict) else []
        return [{k: v for k, v in record.items() if k not in index} for record in next(iter(lists.values()))]
    values = list(content.values())
    if all(isinstance(v, list) for v in values) and len({len(v) for v in values}) == 1:
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    objects = [v for v in values if isinstance(v, dict) and v and all(isinstance(w, dict) for w in v.values())]
    if len(objects) == 1:  # {"runs": {"a": {...}, "b": {...}}}
        return _of_object(objects[0], choices)
    return _by_name(content, choices) if all(isinstance(v, dict) for v in values) else None


def flat(record: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    """A record with the values of its objects as columns of their own; lists are left out."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.", depth + 1) if depth < DEEPEST else {}
        elif not isinstance(value, list | tuple):
            found[f"{before}{name}"] = value
    return found


def _split(columns: list[Any], data: list[Any]) -> list[dict[str, Any]]:
    names = [str(name) for name in columns]
    if not all(isinstance(row, list) and len(row) == len(names) for row in data):
        raise UserError(f"its rows are not of {len(names)} cells each, as its columns are; write it again")
    return [dict(zip(names, row, strict=True)) for row in data]


def _by_name(content: Mapping[str, Mapping[str, Any]], choices: Choices) -> list[dict[str, Any]]:
    """An object of objects: columns of rows where the outer names are of columns, and else rows by their names."""
    inner = list(dict.fromkeys(name for value in content.values() for name in value))
    if _known(list(content), choices) >= _known(inner, choices):
        return [{name: values.get(row) for name, values in content.items()} for row in inner]
    rows = [dict(value) for value in content.values()]
    if all(key.isdigit() for key in content) or "run" in inner:
        return rows
    return [{"run": key, **row} for key, row in zip(content, rows, strict=True)]


def _known(names: list[str], choices: Choices) -> int:
    """How many of the names are of columns that are ours."""
    said = {text.partition("*")[0] for text in choices.columns.values()}
    return len(find_columns(names, {name: [] for name in names}, Choices(), "")) + len(said & set(names))
