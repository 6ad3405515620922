"""Words in the cells of a table: names of formats, estimators and runs, which may be anybody's."""

import math
from typing import Any

from capscale.errors import UserError
from capscale.files import printable

LONGEST_NAME = 1000
"""Characters of the longest name of a format, estimator or run; more are a damaged table."""
FORMULA, QUOTE = "=+-@", "'"
"""How a cell begins that spreadsheets compute, and what is written before one, and dropped when it is read."""


def word(value: Any, place: str) -> str:
    """128.0, which is what a column with gaps makes of 128, reads 128; nothing reads as the empty string.

    Characters that are not printed stand as their codes, on screens, in pictures and in files alike. `place` is said of
    a name that is longer than any.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if len(text := str(value)) > LONGEST_NAME:
        raise UserError(f"{place}: a name of {len(text):,} characters, {text[:40]!r}...; give at most {LONGEST_NAME:,}")
    text = printable(text).replace("\n", r"\n")
    return text[1:] if text.startswith(tuple(QUOTE + mark for mark in FORMULA)) else text


def as_cell(value: Any) -> Any:
    """A value as it is written in CSV: words that a spreadsheet takes for a formula stand behind a quotation mark."""
    return QUOTE + value if isinstance(value, str) and value.lstrip()[:1] in tuple(FORMULA) else value
