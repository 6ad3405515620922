"""Numbers as people and programs write them: decimal commas, thousands separators, 30M, 1.2 T."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from capscale.errors import UserError

MISSING = frozenset({"", "-", "–", "—", "na", "n/a", "#n/a", "<na>", "null", "none", "missing", "?"})
"""Cells, in lower case, in which a number is missing."""
UNITS = {
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mn", "mio", "mil", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "mrd", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
}
"""Suffixes of counts, in lower case; of parameters and tokens m is never a thousandth."""
NOUNS = re.compile(r"\s*(non-embedding\s*)?(params?|parameters|tokens?|tok)\.?$", re.IGNORECASE)
NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<body>[\d.,'’_\s]*\d[.,]?)(?P<exponent>[eE][+-]?\d+)?\s*(?P<suffix>[^\W\d_]*)")
SPACES = re.compile(r"(?<=\d)['’_\s](?=\d{3}(\D|$))")


class Numbers(NamedTuple):
    """One column of numbers, as read."""

    values: list[float | None]
    """None where the cell is missing; NaN where it says so."""
    notes: tuple[str, ...]
    """How its numbers were written, where it was not plainly."""


def is_missing(cell: Any) -> bool:
    """Whether a cell says nothing: empty, null, or a word for that."""
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING)


def read_numbers(cells: Sequence[Any], places: Sequence[str], name: str, *, counts: bool, comma: bool) -> Numbers:
    """The numbers of one column.

    Args:
      cells: of the column.
      places: how errors name the rows.
      name: of the column.
      counts: whether these are parameters or tokens, which take suffixes, and of which 30,000 is thirty thousand.
      comma: whether other columns of the file have decimal commas.

    Raises:
      UserError: a cell is no number, or could be two.
    """
    plain = [_plain(cell) for cell in cells]
    odd = [i for i, value in enumerate(plain) if isinstance(value, str)]
    if not odd:
        return Numbers(plain, ())  # pyright: ignore[reportArgumentType]
    # Beside 1.000.000 a cell 30.000 is thirty thousand: the column is read as one.
    style = _style([str(c) for c in cells if isinstance(c, str) and not is_missing(c)], name, counts, comma)
    values: list[float | None] = []
    suffixes: dict[str, None] = {}
    for value, cell, place in zip(plain, cells, places, strict=True):
        if not isinstance(value, str) and not (style == "," and isinstance(cell, str)):
            values.append(value)
            continue
        if is_missing(cell):
            values.append(None)
            continue
        number, suffix = _one(str(cell), style, counts, f"{place}: {name}={cell!r}")
        values.append(number)
        suffixes |= {suffix: None} if suffix else {}
    notes = (["decimal commas"] if style == "," else []) + ([f"suffixes {', '.join(suffixes)}"] if suffixes else [])
    if any(isinstance(cells[i], str) and SPACES.search(str(cells[i]).replace(",", " ")) for i in odd):
        notes += ["thousands separators"] if style != "," else []
    return Numbers(values, tuple(notes))


def has_decimal_comma(cells: Iterable[Any]) -> bool:
    """Whether some cell can only be read with a decimal comma, and all are numbers."""
    words = [c for c in cells if isinstance(c, str) and not is_missing(c)]
    return (
        any("," in w for w in words)
        and all(NUMBER.fullmatch(w.strip()) for w in words)
        and "," in _evidence(words, counts=False)
    )


def _plain(cell: Any) -> float | str | None:
    """A number as Python reads it, None where it is missing, the text where it is something else."""
    if is_missing(cell):
        return None
    if isinstance(cell, bool):
        return str(cell)
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return str(cell)
    return math.nan if math.isnan(number) else number


def _evidence(words: Iterable[str], *, counts: bool) -> set[str]:
    """Decimal marks that the words can only have been written with, "," or "."; "?" where it might be either.

    Of counts 30.000 may be either as well, and is thirty unless another cell has two points.
    """
    found = set()
    for word in words:
        body = SPACES.sub("", word)
        comma, point = body.count(","), body.count(".")
        if comma and point:
            found.add("," if body.rindex(",") > body.rindex(".") else ".")
        elif comma > 1 or point > 1:
            found.add("." if comma else ",")
        elif comma:
            before, after = re.findall(r"(\d*),(\d*)", body)[0]
            found.add("?" if len(after) == 3 and 1 <= len(before) <= 3 and before != "0" else ",")
        elif point:
            after = re.findall(r"\.(\d*)", body)[0]
            found.add("plain" if counts and len(after) == 3 else ".")
    return found


def _style(words: Sequence[str], name: str, counts: bool, comma: bool) -> str:
    evidence = _evidence(words, counts=counts)
    if {",", "."} <= evidence:
        raise UserError(f"column {name!r} has decimal commas and decimal points; write all of its numbers one way")
    if evidence & {",", "."}:
        return "," if "," in evidence else "."
    if "?" not in evidence:
        return "."
    if not counts:
        return ","  # a loss of a thousand nats there is none
    if any("," in w and w.strip()[-1:].isalpha() for w in words):
        shown = next(w for w in words if "," in w)
        raise UserError(f"column {name!r}: {shown!r} could be read with a decimal comma or without; write it plainly")
    return "." if not comma else ","


def _one(text: str, style: str, counts: bool, place: str) -> tuple[float, str]:
    """The value of one cell, and its suffix."""
    shortened = NOUNS.sub("", text.strip()) if counts else text.strip().removesuffix("nats").strip()
    match = NUMBER.fullmatch(shortened)
    suffix = "" if match is None else match["suffix"].lower()
    if match is None or (suffix and (not counts or suffix not in UNITS)):
        try:
            return float(shortened), ""
        except ValueError as error:
            raise UserError(f"{place} is no number") from error
    body = SPACES.sub("", match["body"])
    thousands = "." if style == "," else ","
    whole, mark, part = body.partition(style)
    if thousands in part or not re.fullmatch(rf"\d{{1,3}}(\{thousands}\d{{3}})+|\d*", whole):
        raise UserError(f"{place} is no number")
    try:
        number = float(match["sign"] + whole.replace(thousands, "") + mark.replace(",", ".") + part)
    except ValueError as error:
        raise UserError(f"{place} is no number") from error
    # 0.3B is 3e8: a product with 1e9 would be off by a rounding, and tell apart what is the same.
    power = round(math.log10(UNITS.get(suffix, 1.0))) + int((match["exponent"] or "e0")[1:])
    exact = f"{match['sign']}{whole.replace(thousands, '') or '0'}.{part or '0'}e{power}"
    return (float(exact) if power else number), match["suffix"]
