"""Finding 1 of arXiv 2506.01863, kind by kind, and the stronger claim that one curve serves all kinds.

The paper's capacity is a function of GMSE for the instances of one kind of representation. That the kinds share it is
more than it says, and is tested here: for each kind, a curve through the formats of the others is held against the
formats of this one whose GMSE the others span.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import rankdata

from capscale.analysis.measure import REFITS, Capacities, CapacityLaw, through_points
from capscale.analysis.operands import gaussian_error, kind_of
from capscale.analysis.printed import printed
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Interval
from capscale.capacity import TANH, TANH_SATURATING, Capacity, Form

LEAST_FORMATS = 3
"""Formats of one kind below which a rank correlation says nothing: two are in order or not by the toss of a coin."""
LEVEL = 0.95
WITHIN_REACH = 2.0
"""Factor of GMSE by which a format may lie beyond those of the other kinds to be compared with their curve."""

Verdict = Literal["holds", "denied", "open", "one kind", "few formats", "no unit"]
"""Of one curve for all kinds.

denied: the mean departure of some kind from the others' curve is not 0, by its interval.
holds: no kind's is, and every interval lies within the tolerance.
open: neither, the intervals are too wide to tell.
one kind, few formats: there is nothing to compare.
no unit: capacities are shares of another format's, which no form of rho is about.
"""


@dataclass(frozen=True)
class Kind:
    """The measured formats of one kind of representation that a law of GMSE is about."""

    name: str
    curves: tuple[str, ...]
    """By GMSE."""
    gmse: tuple[float, float]
    """Smallest and largest of them."""
    rank: Interval | None
    """Spearman correlation of rho with GMSE, sign turned: 1 is perfect order. None: see `rank_correlation`."""
    law: CapacityLaw | None
    """rho(GMSE) of this kind; None with no more formats than it has numbers. With an Lsat where the kind needs one."""
    lsat: Interval | None = None
    """Where capacity ends as the error goes to 0: of a kind that needs it, whose 95 % interval is below 1."""


@dataclass(frozen=True)
class Departure:
    """How far a kind stands above the curve of the other kinds, on the mean of the formats within their reach."""

    kind: str
    curves: tuple[str, ...]
    rho: Interval
    """With an interval that holds for all kinds of the study at once (Bonferroni)."""


@dataclass(frozen=True)
class Across:
    """One curve for all kinds: what the table says of it."""

    verdict: Verdict
    rank: Interval | None
    """Spearman correlation over the formats of all kinds."""
    departures: tuple[Departure, ...]
    tolerance: float
    """Of rho: how far one curve misses a kind that it was not fitted to in the paper's own figures."""


class Points:
    """Measured formats with one compressed operand, of known GMSE, whose estimators are their own."""

    def __init__(self, table: Table, measured: Capacities) -> None:
        """Chooses them from `measured`, in order of GMSE."""
        first = table.first_of_curve
        rows = [first[c] for c in measured.curves]
        errors = [one_error(r) for r in rows]
        use = [i for i, r in enumerate(rows) if r.is_plain and measured.measured[i] and np.isfinite(errors[i])]
        use.sort(key=lambda i: errors[i])
        self.rows: list[Row] = [rows[i] for i in use]
        self.gmse = np.array([errors[i] for i in use])
        self.kind = np.array([kind_of(r) for r in self.rows], dtype=object)
        self.rho, self.draws = measured.rho[use], measured.draws[:, use]

    def through(self, form: Form | None, chosen: np.ndarray, refits: int = REFITS) -> CapacityLaw | None:
        """The form through some of the points; None without a form."""
        if form is None:
            return None
        rows = [r for r, c in zip(self.rows, chosen, strict=True) if c]
        return through_points(form, rows, self.rho[chosen], self.draws[:refits, chosen])


def one_error(row: Row) -> float:
    """GMSE of the one compressed operand; NaN where both are, whose capacity is a product."""
    sides = [getattr(row, f"{o}_gmse") for o in ("weights", "activations") if getattr(row, o) != "dense"]
    return float(sides[0]) if len(sides) == 1 else float("nan")


def kinds(points: Points, form: Form | None) -> tuple[Kind, ...]:
    """Every kind of the points, those of most formats first; without curves where there is no form."""
    found = []
    for name in dict.fromkeys(points.kind):
        mine = points.kind == name
        curves = tuple(r.curve for r, m in zip(points.rows, mine, strict=True) if m)
        rank = rank_interval(points.gmse[mine], points.rho[mine], points.draws[:, mine])
        ends = float(points.gmse[mine].min()), float(points.gmse[mine].max())
        law, lsat = _law_of_kind(points, form, mine)
        found.append(Kind(str(name), curves, ends, rank, law, lsat))
    return tuple(sorted(found, key=lambda k: -len(k.curves)))


def _law_of_kind(points: Points, form: Form | None, mine: np.ndarray) -> tuple[CapacityLaw | None, Interval | None]:
    """The form through one kind, with an Lsat if its 95 % interval is below 1."""
    k = [p.name for p in TANH_SATURATING.parameters].index("Lsat")
    alone = points.through(TANH_SATURATING, mine, refits=0) if form is TANH else None
    if alone is not None and alone.values[k] < 1:
        saturating = points.through(TANH_SATURATING, mine)
        assert saturating is not None
        low, high = np.quantile(saturating.draws[:, k], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if high < 1:
            return saturating, Interval(float(saturating.values[k]), float(low), float(high))
    return points.through(form, mine), None


def across(points: Points, form: Form | None) -> Across:
    """The verdict on one curve for all kinds, by the rule of `Verdict`."""
    rank = rank_interval(points.gmse, points.rho, points.draws)
    names = list(dict.fromkeys(points.kind))
    tolerance = transfer_error()
    if form is None:
        return Across("no unit", rank, (), tolerance)
    if len(names) < 2:
        return Across("one kind", rank, (), tolerance)
    departures = [d for name in names if (d := _departure(points, form, str(name), len(names))) is not None]
    if not departures:
        return Across("few formats", rank, (), tolerance)
    if any(d.rho.low > 0 or d.rho.high < 0 for d in departures):
        verdict: Verdict = "denied"
    else:
        inside = all(-tolerance <= d.rho.low and d.rho.high <= tolerance for d in departures)
        verdict = "holds" if inside and len(departures) == len(names) else "open"
    return Across(verdict, rank, tuple(departures), tolerance)


@cache
def transfer_error() -> float:
    """RMS error of rho when one F and C go through the kinds of formats of the paper's printed figures.

    INT weights and INT activations of Figure 6, weight and activation sparsity of Figure 2b: each kind is predicted
    from the others, and the errors are pooled.
    """
    kinds = []
    integers, sparse = printed()["6"], printed()["2b"]
    for grid, prefix in ((integers.grid, "int"), (sparse.grid, "top")):
        for k, axis in enumerate(grid.axes):
            alone = [(n, r) for n, r in zip(axis.levels, grid.line(k), strict=True) if n != axis.dense]
            named = [(n if prefix == "int" else f"{float(n) * 100:.0f}", r) for n, r in alone]
            kinds.append([(gaussian_error(prefix + n), r) for n, r in named])
    errors: list[float] = []
    for k, held in enumerate(kinds):
        known = np.array([pair for other, kind in enumerate(kinds) if other != k for pair in kind])

        def off(v: np.ndarray, pairs: np.ndarray = known) -> np.ndarray:
            return Capacity(TANH, (("F", v[0]), ("C", v[1]))).rho(pairs[:, 0]) - pairs[:, 1]

        F, C = least_squares(
            off, [0.4, 1.4], bounds=([p.lower for p in TANH.parameters], [p.upper for p in TANH.parameters])
        ).x
        errors += list(off(np.array([F, C]), np.array(held)))
    return float(np.sqrt(np.mean(np.square(errors))))


def _departure(points: Points, form: Form | None, name: str, kinds: int) -> Departure | None:
    mine = points.kind == name
    curve = points.through(form, ~mine)
    if curve is None:
        return None
    low, high = points.gmse[~mine].min() / WITHIN_REACH, points.gmse[~mine].max() * WITHIN_REACH
    near = mine & (low <= points.gmse) & (points.gmse <= high)
    if not near.any():
        return None
    rows = [r for r, n in zip(points.rows, near, strict=True) if n]
    estimate = float(np.mean(points.rho[near] - [curve.of(r) for r in rows]))
    refits = [[one.of(r) for r in rows] for one in curve.resampled()]
    every = np.mean(points.draws[:REFITS][:, near] - refits, axis=1)
    tail = (1 - LEVEL) / kinds / 2
    ends = np.quantile(every, [tail, 1 - tail])
    return Departure(name, tuple(r.curve for r in rows), Interval(estimate, float(ends[0]), float(ends[1])))


def rank_interval(gmse: np.ndarray, rho: np.ndarray, draws: np.ndarray) -> Interval | None:
    """Spearman correlation of rho (C,) with GMSE, sign turned, and its 95 % interval over resamples (S, C).

    None with fewer than `LEAST_FORMATS` formats, and where all errors or all capacities are the same.
    """
    if len(rho) < LEAST_FORMATS or np.ptp(gmse) == 0 or np.ptp(rho) == 0:
        return None
    values = [-rank_correlation(gmse, d) for d in draws if np.ptp(d) > 0]
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(-rank_correlation(gmse, rho), float(low), float(high))


def rank_correlation(x: Any, y: Any) -> float:
    """Spearman's correlation of two sequences that are not constant."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
