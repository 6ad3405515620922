"""Which rows of a file are wanted."""

from collections.abc import Mapping, Sequence
from typing import Any

from capscale.analysis.names import word
from capscale.analysis.reading.columns import plain_name
from capscale.analysis.reading.numbers import is_missing
from capscale.analysis.row import Remark
from capscale.errors import UserError


def chosen(
    records: Sequence[Mapping[str, Any]],
    where: Sequence[tuple[str, frozenset[str]]],
    ours: Mapping[str, str],
    source: str,
) -> tuple[list[int], list[Remark]]:
    """Indices of the rows that every condition holds for, and a remark for each condition.

    Args:
      records: of the file.
      where: columns, and the values that are wanted in each; the empty one stands for empty cells.
      ours: our names of columns, which conditions may use as well, and the file's.
      source: names the file in errors.

    Raises:
      UserError: there is no such column, or no row has a wanted value.
    """
    kept, remarks = list(range(len(records))), []
    names = list(dict.fromkeys(name for record in records for name in record))
    for asked, wanted in where:
        same = [n for n in names if plain_name(n) == plain_name(asked)]
        name = asked if asked in names else ours.get(asked, same[0] if len(same) == 1 else "")
        if name not in names:
            raise UserError(f"{source}: --where {asked}: no such column; there are {sorted(names)}")
        before = len(kept)
        values = {i: _value(records[i].get(name)) for i in kept}
        kept = [i for i in kept if _is_wanted(values[i], wanted)]
        said = f"--where {asked}={','.join(sorted(wanted))}"
        if not kept:
            there = ", ".join(repr(v) for v in list(dict.fromkeys(values.values()))[:12])
            raise UserError(f"{source}: {said}: no row of {before}; column {name!r} says {there}")
        remarks.append(Remark(said, f"{len(kept)} of {before} rows"))
    return kept, remarks


def _value(cell: Any) -> str:
    return "" if is_missing(cell) else word(cell, "a cell").strip()


def _is_wanted(value: str, wanted: frozenset[str]) -> bool:
    low = {w.lower() for w in wanted}
    return value.lower() in low or any(_equal(value, w) for w in low)


def _equal(first: str, second: str) -> bool:
    """Whether both are one number, however it is written."""
    try:
        return float(first) == float(second)
    except ValueError:
        return False
