"""Mean losses of equal runs, which differ in their seed at most, and how far they may lie off."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import norm, t

from capscale.analysis.seeds import scatter
from capscale.analysis.table import Row, Table

LEVEL = 0.975
"""Quantile at the upper end of a 95 % interval."""
ErrorSource = Literal["seeds", "text", "none"]
"""The ground of intervals of losses: how far equal runs lie apart, the sampling error of the validation text, which all
runs that were scored on it share, or nothing that the table says."""


class MeanLoss(NamedTuple):
    """Of the runs of one format at one size."""

    curve: str
    N: float
    loss: float
    half: float
    """Half of its 95 % interval; NaN where the table does not say."""
    runs: int


def error_source(table: Table) -> ErrorSource:
    """The ground of the intervals of `mean_losses`.

    Example: `error_source(Table((), "", ""))` is `"none"`.
    """
    if scatter(table) is not None:
        return "seeds"
    return "text" if any(math.isfinite(r.loss_se) for r in table.rows) else "none"


def mean_losses(table: Table, rows: Sequence[Row]) -> list[MeanLoss]:
    """A mean for each format and size of `rows`, all of one budget, by format and size.

    Errors are those of the whole `table`: its seeds tell one deviation with many degrees of freedom, two of one cell
    hardly any.
    """
    told, source = scatter(table), error_source(table)
    cells: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for r in rows:
        cells[r.curve, r.N].append(r)
    found = []
    for (curve, N), mine in sorted(cells.items()):
        half = math.nan
        if told is not None:
            half = float(t.ppf(LEVEL, told.freedom)) * told.deviation / math.sqrt(len(mine))
        elif source == "text":
            half = float(norm.ppf(LEVEL)) * float(np.mean([r.loss_se for r in mine]))
        found.append(MeanLoss(curve, N, float(np.mean([r.loss for r in mine])), half, len(mine)))
    return found
