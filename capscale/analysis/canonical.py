"""A table as a file of canonical columns, which reads back as the same table."""

import csv
import io
import math
from typing import Any

from capscale.analysis.names import as_cell
from capscale.analysis.reading.missing import REQUIRED
from capscale.analysis.row import Row
from capscale.analysis.table import Table

UNSAID: dict[str, Any] = {"weight": 1.0, "default_estimators": True, "gradients": "dense", "cache": "dense"} | {
    "correction": "none"
}
"""Values of columns that are left out where every row has them, beside empty words and NaN."""


def canonical_csv(table: Table) -> bytes:
    """The rows as CSV: what a law reads, other numeric columns, and nothing that all rows leave unsaid.

    Words stand in quotation marks, so that no run's name makes a comment of its line. Numbers are exact.
    """
    lines = [row.line for row in table.rows]
    names = ["run", *REQUIRED]
    names += [n for n in Row._fields if n not in (*names, "curve", "extra") and any(_says(n, x[n]) for x in lines)]
    names += [n for n in lines[0] if n not in Row._fields]
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(line[name]) for name in names] for line in lines)
    return buffer.getvalue().encode()


def _says(name: str, value: Any) -> bool:
    return (
        value != UNSAID[name]
        if name in UNSAID
        else value != "" and not (isinstance(value, float) and math.isnan(value))
    )


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else int(value) if value.is_integer() and abs(value) < 2**53 else value
    return as_cell(value)
