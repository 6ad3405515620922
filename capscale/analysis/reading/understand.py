"""Records of any file as records of our columns, and what was understood on the way."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from capscale.analysis.names import word
from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.column_names import EXACT, NAMES
from capscale.analysis.reading.columns import BITS, COUNTS, Column, find_columns, plain_name, remark_on
from capscale.analysis.reading.gradients import read_gradients
from capscale.analysis.reading.groups import is_group
from capscale.analysis.reading.history import last_of_histories
from capscale.analysis.reading.missing import refuse_missing
from capscale.analysis.reading.numbers import Numbers, has_decimal_comma, is_missing, read_numbers
from capscale.analysis.reading.operands import OPERANDS, is_empty, read_operands
from capscale.analysis.reading.rows import chosen
from capscale.analysis.row import Remark
from capscale.errors import UserError

WORDS = (
    *(*OPERANDS, "run", "status", "family", "weights_estimator", "activations_estimator", "hadamard"),
    *("gradients", "cache", "correction", "policy"),
)
DIVERGED = ("diverged", "is_diverged", "has_diverged")
TRUE, FALSE = frozenset({"true", "yes", "1", "1.0"}), frozenset({"false", "no", "0", "0.0", "", "nan"})


class Understood(NamedTuple):
    """Records of our columns."""

    records: list[dict[str, Any]]
    columns: tuple[Column, ...]
    """Ours, and where each comes from."""
    extra: tuple[str, ...]
    """Other numeric columns, which come with the rows."""
    ignored: tuple[str, ...]
    """Columns that nothing is read from."""
    remarks: tuple[Remark, ...]


def understand(records: Sequence[Mapping[str, Any]], choices: Choices, source: str) -> Understood:
    """Finds our columns among those of a file, and reads their numbers and words.

    Args:
      records: of the file, one mapping a row.
      choices: what the reader has said.
      source: names the file in errors.

    Returns:
      Records whose columns are ours, other numeric ones, and those that say what runs can be compared.

    Raises:
      UserError: a choice names what is not there, a column could be several, a number or a format is none or could be
        several.
    """
    names = list(dict.fromkeys(str(name) for record in records for name in record))
    columns = find_columns(names, {n: [r.get(n) for r in records] for n in names}, choices, source)
    labels = [_label(record, columns.get("run"), i) for i, record in enumerate(records)]
    kept, remarks = chosen(records, choices.where, {c.name: c.source for c in columns.values()}, source)
    records, labels = [records[i] for i in kept], [labels[i] for i in kept]
    cells: dict[str, list[Any]] = {n: [_cell(r.get(n)) for r in records] for n in names}
    remarks += _fill(columns, cells, choices, len(records))
    places = [f"{source}: {label}" for label in labels]
    # Decimal commas in one column say how ambiguous numbers of another are meant.
    comma = any(has_decimal_comma(cells[name]) for name in names)
    found: dict[str, list[Any]] = {"run": labels}
    for ours, column in columns.items():
        if ours not in WORDS and ours != "default_estimators":
            numbers, column = _numbers(column, cells[column.source], places, comma)  # noqa: PLW2901
            columns[ours] = column
            found[ours] = numbers
            remarks += remark_on(column)
        elif ours == "gradients":
            found[ours], said = read_gradients(cells[column.source], column, choices, places)
            remarks += said
        elif ours not in (*OPERANDS, "run"):
            found[ours] = cells[column.source]
            remarks += remark_on(column)
    if "run" in columns:
        remarks += remark_on(columns["run"])
    remarks += read_operands(found, columns, cells, choices, places)
    remarks += _read_status(found, cells, choices, source)
    used = {c.source for c in columns.values()} | {rival for c in columns.values() for rival in c.rivals}
    extra, ignored = [], [rival for c in columns.values() for rival in c.rivals]
    for name in names:
        if name in used or name in found:
            continue
        if is_group(name):
            found[name] = cells[name]
        elif (numbers := _extra(name, cells[name], places, comma)) is not None:
            found[name] = numbers.values
            extra.append(name)
        elif name not in DIVERGED:
            ignored.append(name)
    refuse_missing(found, [*names, *(name for name in found if name in choices.fill)], source)
    rows = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    rows, history = last_of_histories(rows)
    return Understood(rows, tuple(columns.values()), tuple(extra), tuple(ignored), (*remarks, *history))


def _label(record: Mapping[str, Any], column: Column | None, index: int) -> str:
    cell = None if column is None else record.get(column.source)
    return f"row {index + 1}" if is_missing(cell) or word(cell, "") == "" else word(cell, f"row {index + 1}")


def _cell(cell: Any) -> Any:
    """A cell as it was typed: spreadsheets take 2:4 for a time of day."""
    if isinstance(cell, datetime.time):
        return f"{cell.hour}:{cell.minute}"
    return cell


def _fill(columns: dict[str, Column], cells: dict[str, list[Any]], choices: Choices, rows: int) -> list[Remark]:
    """Puts the values that the reader gives into empty cells, and makes columns that are not there."""
    remarks = []
    for ours, value in choices.fill.items():
        if ours not in (*NAMES, *EXACT):
            raise UserError(f"--fill {ours}={value}: no such name; there are {', '.join([*NAMES, *EXACT])}")
        if ours not in columns:
            source = f"--fill {ours}={value}"
            columns[ours], cells[source] = Column(ours, source), [value] * rows
            remarks.append(Remark(source, f"of all {rows} rows"))
            continue
        before = cells[columns[ours].source]
        empty = [is_empty(cell, ours) for cell in before]
        cells[columns[ours].source] = [value if gap else cell for cell, gap in zip(before, empty, strict=True)]
        remarks.append(Remark(f"--fill {ours}={value}", f"in {sum(empty)} empty cells"))
    return remarks


def _numbers(
    column: Column, cells: Sequence[Any], places: Sequence[str], comma: bool
) -> tuple[list[float | None], Column]:
    """Values of one of our columns in its unit, and what has to be said of it."""
    found = read_numbers(cells, places, column.source, counts=column.name in COUNTS, comma=comma)
    factor, notes = column.factor, list(found.notes)
    if column.name == "loss" and factor == 1 and BITS.search(column.source):
        factor = math.log(2)
        notes.append("bits per token, times ln 2")
    elif factor != 1:
        notes.append(f"times {factor:g}")
    values = found.values if factor == 1 else [None if v is None else _whole(v * factor) for v in found.values]
    return values, column._replace(factor=factor, note="; ".join([*([column.note] if column.note else []), *notes]))


def _whole(value: float) -> float:
    """A count without the rounding of a product: 0.07e6 is 70,000."""
    near = round(value) if math.isfinite(value) else value
    return float(near) if abs(near - value) < 1e-12 * abs(value) else value


def _extra(name: str, cells: Sequence[Any], places: Sequence[str], comma: bool) -> Numbers | None:
    """Numbers of a column that is none of ours; None where it has words, or nothing."""
    if all(is_missing(cell) for cell in cells) or any(isinstance(cell, bool) for cell in cells):
        return None
    counts = any(noun in plain_name(name) for noun in ("token", "param"))
    try:
        return read_numbers(cells, places, name, counts=counts, comma=comma)
    except UserError:
        return None


def _read_status(
    found: dict[str, list[Any]], cells: Mapping[str, Sequence[Any]], choices: Choices, source: str
) -> list[Remark]:
    """Statuses by the reader's words, and truth values of a column `diverged`."""
    if "status" in found:
        words = [None if is_missing(c) else word(c, source) for c in found["status"]]
        found["status"] = [None if w is None else choices.replace.get(w.lower(), w) for w in words]
    for name in cells:
        if plain_name(name) not in DIVERGED:
            continue
        values = ["" if is_missing(c) else str(c).strip().lower() for c in cells[name]]
        if odd := sorted(set(values) - TRUE - FALSE):
            raise UserError(f"{source}: column {name!r} says {odd[0]!r}, which is neither true nor false")
        before = found.get("status", [None] * len(values))
        found["status"] = ["diverged" if v in TRUE else b for v, b in zip(values, before, strict=True)]
        return [Remark(f"column {name!r}", "read as the status of runs that diverged")]
    return []
