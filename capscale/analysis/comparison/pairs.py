"""Losses of two tables at equal size, tokens and format: paired by seed, and by cell where no seed is shared."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import norm, t

from capscale.analysis.equivalence import SAME_TOKENS
from capscale.analysis.seeds import scatter
from capscale.analysis.table import Row, Table

LEVEL = 0.975
"""Quantile at the upper end of a 95 % interval."""
ALL = "all formats"


class Pair(NamedTuple):
    """Two runs of one format, size, number of tokens and seed."""

    first: Row
    second: Row

    @property
    def difference(self) -> float:
        """Loss of the second less that of the first, nats a token."""
        return self.second.loss - self.first.loss

    @property
    def same(self) -> bool:
        """Whether both rows are of the very same run."""
        return self.first.run == self.second.run and self.first.loss == self.second.loss


class LossDifference(NamedTuple):
    """Mean difference of losses in one format, the second table's less the first one's, in nats a token."""

    curve: str
    how: Literal["paired", "unpaired"]
    cells: int
    """Pairs; unpaired, sizes and numbers of tokens that both have."""
    mean: float
    standard_error: float
    """NaN where it is not known: of one pair, or without seeds to tell it by."""
    low: float
    high: float

    @property
    def told(self) -> bool:
        """Whether the 95 % interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def pairs(first: Table, second: Table) -> list[Pair]:
    """Rows of equal format, size, tokens (to `SAME_TOKENS`) and seed, each used once, in the order of the first table.

    Rows that have no seed are paired where each table has one of them in a cell.
    """
    waiting: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in second.rows:
        waiting[_key(row)].append(row)
    alone = [_without_seed(table) for table in (first, second)]
    found = []
    for row in first.rows:
        if math.isnan(row.seed) and not all(cells.get(_key(row), 0) == 1 for cells in alone):
            continue
        near = [r for r in waiting[_key(row)] if abs(math.log(r.D / row.D)) < SAME_TOKENS]
        if near:
            # Of checkpoints that lie near, the nearest.
            best = min(near, key=lambda r: abs(math.log(r.D / row.D)))
            waiting[_key(row)].remove(best)
            found.append(Pair(row, best))
    return found


def _key(row: Row) -> tuple[object, ...]:
    return (row.identity, row.N, None if math.isnan(row.seed) else row.seed)


def _without_seed(table: Table) -> dict[tuple[object, ...], int]:
    """How many rows without a seed a table has in every format and size; as many as it has numbers of tokens is one."""
    rows, tokens = defaultdict(int), defaultdict(set)
    for row in table.rows:
        if math.isnan(row.seed):
            rows[_key(row)] += 1
            tokens[_key(row)].add(row.D)
    return {key: -(-count // len(tokens[key])) for key, count in rows.items()}


def loss_differences(first: Table, second: Table, paired: Sequence[Pair]) -> list[LossDifference]:
    """A line for each format that both have at equal size and tokens, and one for all pairs together.

    Paired: the mean over pairs with the standard error of their own spread, and an interval of Student's t. A format
    without a pair: the mean over cells of differences of mean losses, with errors by how far the seeds of each table
    lie apart.
    """
    by_curve: dict[str, list[float]] = defaultdict(list)
    for pair in paired:
        by_curve[pair.first.curve].append(pair.difference)
    found = {curve: _paired(curve, values) for curve, values in by_curve.items()}
    found |= {line.curve: line for line in _unpaired(first, second) if line.curve not in found}
    lines = [found[curve] for curve in first.curves if curve in found]
    every = [pair.difference for pair in paired]
    return [*lines, _paired(ALL, every)] if len(by_curve) > 1 else lines


def _paired(curve: str, values: Sequence[float]) -> LossDifference:
    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return LossDifference(curve, "paired", 1, mean, math.nan, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    half = float(t.ppf(LEVEL, count - 1)) * error
    return LossDifference(curve, "paired", count, mean, error, mean - half, mean + half)


def _unpaired(first: Table, second: Table) -> Iterable[LossDifference]:
    told = [scatter(table) for table in (first, second)]
    cells = [_cells(table) for table in (first, second)]
    shared: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, mine in cells[0].items():
        others = [losses for other, losses in cells[1].items() if other[:2] == key[:2] and _near(other[2], key[2])]
        if not others:
            continue
        variance = math.nan
        if told[0] is not None and told[1] is not None:
            variance = told[0].deviation ** 2 / len(mine[1]) + told[1].deviation ** 2 / len(others[0][1])
        shared[mine[0]].append((float(np.mean(others[0][1]) - np.mean(mine[1])), variance))
    for curve, values in shared.items():
        mean = float(np.mean([v for v, _ in values]))
        error = math.sqrt(sum(v for _, v in values)) / len(values)
        # Errors of the two tables have degrees of freedom of their own: the fewer of them widen the interval.
        freedom = min((s.freedom for s in told if s is not None), default=0)
        half = error * float(t.ppf(LEVEL, freedom) if freedom else norm.ppf(LEVEL))
        yield LossDifference(curve, "unpaired", len(values), mean, error, mean - half, mean + half)


def _cells(table: Table) -> dict[tuple[object, float, float], tuple[str, list[float]]]:
    found: dict[tuple[object, float, float], tuple[str, list[float]]] = {}
    for row in table.rows:
        found.setdefault((row.identity, row.N, row.D), (row.curve, []))[1].append(row.loss)
    return found


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < SAME_TOKENS
