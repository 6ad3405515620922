"""Which column of a file is which of ours, by the names that programs and people give them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.column_names import EXACT, NAMES
from capscale.analysis.reading.numbers import UNITS
from capscale.analysis.row import Remark
from capscale.errors import UserError

COUNTS = ("N", "D")
RAW_NAMES = {"N": "N", "D": "D"}
"""Ours alone as they stand: n and d are widths as often."""
PREFIXES = re.compile(r"^(config|summary|hparams?|args|cfg|model|metrics?|quant|data)_(?=.)")
OTHERS = {
    "N": "taken as parameters without embeddings",
    "total": "embeddings included, which no law here counts",
}
BITS = re.compile(r"\b(bits?|bpt)\b|_(bits?|bpt)(_per_token)?$", re.IGNORECASE)
"""Losses in bits per token."""
PER_BYTE = re.compile(r"byte|char|bpb|bpc", re.IGNORECASE)
"""Losses that are none per token."""


class Column(NamedTuple):
    """One of ours, and where it comes from."""

    name: str
    source: str
    factor: float = 1.0
    note: str = ""
    """Words about the choice, for whoever reads the table."""
    rivals: tuple[str, ...] = ()
    """Columns of the same meaning that were not taken."""


def plain_name(name: str) -> str:
    """`valid/loss`, `Val Loss (nats)` and `valLoss` as valid_loss and val_loss."""
    bare = re.sub(r"[\(\[].*?[\)\]]\s*$", "", name.strip())
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare)
    return re.sub(r"[^a-z0-9]+", "_", snake.lower()).strip("_")


def bare_names(name: str) -> Iterable[str]:
    """The plain name, and without the group that trackers put before it: config_model_n_params, ..., n_params."""
    plain = plain_name(name)
    yield plain
    while (match := PREFIXES.match(plain)) is not None:
        plain = plain[match.end() :]
        yield plain


def _with_unit(name: str) -> Iterable[tuple[str, float]]:
    """Readings of a name as that of a count and the unit in it: `params (M)`, tokens_B, n_params_in_millions."""
    inside = re.search(
        r"[\(\[]\s*(?:in\s+|x\s*|×\s*)?(.*?)(?:\s*(?:params?|parameters|tokens?))?\s*[\)\]]\s*$", name.strip()
    )
    unit = UNITS.get(inside[1].lower()) if inside else None
    for bare in bare_names(name):
        yield bare, unit or 1.0
        base, _, last = bare.rpartition("_")
        if base and last in UNITS:
            yield base.removesuffix("_in"), UNITS[last]


def _tier(ours: str, name: str) -> tuple[int, float] | None:
    """How good a column's name is for one of ours, 0 the best, and the unit in it; None where it is another thing."""
    if name.strip() == RAW_NAMES.get(ours):
        return 0, 1.0
    if ours == "loss" and PER_BYTE.search(name):
        return None
    readings = _with_unit(name) if ours in COUNTS else ((bare, 1.0) for bare in bare_names(name))
    for bare, unit in readings:
        for tier, names in enumerate(NAMES[ours], 0 if ours not in RAW_NAMES else 1):
            if bare in names or (ours in COUNTS and unit != 1.0 and bare == ours.lower()):
                return tier, unit
        if ours == "loss" and re.sub(r"(_in)?_(nats?|bits?|bpt)(_per_token)?$", "", bare) in NAMES["loss"][0]:
            return 0, 1.0
    return None


def find_columns(
    names: Sequence[str], cells: Mapping[str, Sequence[Any]], choices: Choices, source: str
) -> dict[str, Column]:
    """Ours and where each comes from.

    Args:
      names: of the file's columns, in order.
      cells: of every column; two of one meaning and the same content are one.
      choices: what the reader has said, which goes first.
      source: names the file in errors.

    Raises:
      UserError: several columns could be one of ours and differ, or a mapping names none that is there.
    """
    unknown = sorted(set(choices.columns) - {*NAMES, *EXACT})
    if unknown:
        raise UserError(f"--map {unknown[0]}=...: no such name; there are {', '.join([*NAMES, *EXACT])}")
    mapped = {choices.columns[ours]: ours for ours in choices.columns}
    found: dict[str, Column] = {}
    for ours in (*NAMES, *EXACT):
        if (said := choices.source(ours, names)) is not None:
            rivals = tuple(n for n in names if ours == "loss" and n != said.column and _tier(ours, n) is not None)
            found[ours] = Column(ours, said.column, said.factor, rivals=rivals)
            continue
        free = [n for n in names if n not in mapped]
        if ours in EXACT:
            if ours in free:
                found[ours] = Column(ours, ours)
            continue
        tiers: dict[int, list[tuple[str, float]]] = {}
        for name in free:
            if (tier := _tier(ours, name)) is not None:
                tiers.setdefault(tier[0], []).append((name, tier[1]))
        if tiers:
            found[ours] = _chosen(ours, tiers, cells, source)
    return found


def _chosen(
    ours: str, tiers: Mapping[int, list[tuple[str, float]]], cells: Mapping[str, Sequence[Any]], source: str
) -> Column:
    best = min(tiers)
    (name, factor), *others = tiers[best]
    differing = [n for n, f in others if f != factor or list(cells[n]) != list(cells[name])]
    if differing and ours != "run":
        shown = ", ".join(repr(n) for n, _ in tiers[best])
        raise UserError(f"{source}: columns {shown} could each be {ours}; choose one: --map {ours}={name}")
    note = ""
    if ours == "N" and best > 1 and plain_name(name) not in ("n",):
        note = OTHERS["N" if best == 2 else "total"]
    return Column(ours, name, factor, note, tuple(n for n, _ in others))


def remark_on(column: Column) -> list[Remark]:
    """Names the column where it is not called as ours is, or its numbers or words were not plain."""
    if column.source == column.name:
        return [Remark(f"column {column.name!r}", column.note)] if column.note else []
    if column.source.startswith("--fill"):
        return []
    note = f": {column.note}" if column.note else ""
    return [Remark(f"column {column.source!r}", f"read as {column.name}{note}")]
