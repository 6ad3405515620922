"""Rows that a law cannot be fitted to together with the others, and the fit without them.

One row in other units can drag every number of a fit with it, and its own residual down to nothing; several hide one
another. So the search starts from a fit that no third of the rows can move (least trimmed squares: Rousseeuw & Van
Driessen 1999, from many random subsets), and takes rows in one by one (`forward_search`). What then stays outside
pulls.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from capscale.analysis.conditioning import jacobian
from capscale.analysis.fit import Fit, with_shared_errors
from capscale.analysis.forward_search import search
from capscale.analysis.starts import starting_points

MOST = 1 / 3
"""Share of rows, and of rows less fitted numbers, that may be named; beyond it is the law that is wrong."""
SUBSETS = 64
"""Random subsets that the search starts from, half of them of a quarter of the rows and half of a third: of a quarter,
one in 16 holds none of nine that are off, and of a third the law is told better."""
CONCENTRATED = 12
"""Fits to subsets that are followed further: those nearest to most rows."""
CONCENTRATIONS = 3
"""Times that each subset of those is replaced by the rows nearest to its fit."""
ROUNDS = 5
"""Most times that the law is fitted again to the rows kept, before the last answer stands."""


@dataclass(frozen=True)
class Outlier:
    """One row that pulls."""

    run: str
    curve: str
    N: float
    D: float
    loss: float
    predicted: float
    """By the fit without any of the outlying rows."""
    deviations: float
    """Loss less prediction, in standard deviations of such a difference (studentized, leverage counted)."""


@dataclass(frozen=True)
class Outliers:
    """The rows that pull, the farthest first, and the same law fitted without all of them."""

    rows: tuple[Outlier, ...]
    without: Fit
    """The fit itself where no row pulls. It keeps all rows; those left out have weight 0."""
    formats: tuple[str, ...] = ()
    """Formats most of whose rows pull, to one side: the law misses these as a whole, and all of their rows are out."""
    law_is_wrong: bool = False
    """True where the search ended at its limit, `MOST`."""

    @property
    def kept(self) -> np.ndarray:
        """Rows that the fit without the others is about (R,)."""
        return self.without.problem.weight > 0

    @property
    def rmse(self) -> float:
        """Root mean squared residual over the rows kept, in nats."""
        return float(np.sqrt(np.mean(self.without.residuals[self.kept] ** 2)))

    @property
    def rho(self) -> dict[str, float]:
        """Capacities without the rows that pull, of the formats that rows are left of."""
        left = {r.curve for r, keep in zip(self.without.table.rows, self.kept, strict=True) if keep}
        return {c: rho for c, rho in self.without.rho.items() if c in left}


def outliers(fit: Fit) -> Outliers:
    """The rows that `fit`'s law does not describe while it describes the rest, and the fit to the rest.

    A row is outside where its studentized distance from the fit to the rows inside exceeds the quantile of Student's t
    at `forward_search.LEVEL` over twice the number of rows (Bonferroni), and all rows outside together are too far for
    chance.
    Formats that are outside as a whole are set aside first, and the others searched again. Rows are taken as
    independent in the search: what they seem to share may be the doing of one that is off; the fit without them has its
    own shared errors.
    """
    found = _searched(replace(fit, shared=fit.shared.none()))
    if not found.rows:
        return replace(found, without=fit)
    start = found.without.z[None]
    return replace(found, without=with_shared_errors(found.without, start)) if fit.shared.levels else found


def _searched(fit: Fit) -> Outliers:
    """The rows outside, formats as a whole first."""
    found = _found(fit)
    formats = () if found.law_is_wrong else _as_a_whole(found)
    if not formats:
        return found
    out = np.array([r.curve in formats for r in fit.table.rows])
    first = tuple(r for r in found.rows if r.curve in formats)
    weight = np.where(out, 0.0, fit.problem.weight)
    rest = _found(_without(replace(fit, problem=replace(fit.problem, weight=weight)), ~(weight > 0), found.without.z))
    return Outliers((*first, *rest.rows), rest.without, formats, rest.law_is_wrong)


def _found(fit: Fit) -> Outliers:
    """The rows outside, whatever their formats."""
    drop, counted = most_rows(fit), fit.problem.weight > 0
    if drop < 1:
        return Outliers((), fit)
    at = _trimmed(fit, drop)
    outside, distance, at_limit = _search(at, drop)
    without = fit
    for _ in range(ROUNDS):
        if not outside.any():
            return Outliers((), fit)
        without = _without(fit, outside, at.z)
        if _without_rows(fit, outside):
            break  # nothing tells the capacity of such a format any more, to search again beside it
        at, before = replace(fit, z=without.z, upper=without.upper), outside
        outside, distance, at_limit = _search(at, drop)
        if np.array_equal(before, outside):
            break
    predicted = at.predicted
    rows = [
        Outlier(r.run, r.curve, r.N, r.D, r.loss, float(predicted[i]), float(distance[i]))
        for i, r in enumerate(fit.table.rows)
        if counted[i] and not without.problem.weight[i] > 0
    ]
    return Outliers(tuple(sorted(rows, key=lambda r: -abs(r.deviations))), without, law_is_wrong=at_limit)


def _without_rows(fit: Fit, outside: np.ndarray) -> bool:
    """Whether all rows of some format are outside."""
    kept = {r.curve for r, out in zip(fit.table.rows, outside, strict=True) if not out}
    return not kept.issuperset(r.curve for r in fit.table.rows)


def _as_a_whole(found: Outliers) -> tuple[str, ...]:
    size = Counter(r.curve for r in found.without.table.rows)
    formats = []
    for curve in dict.fromkeys(r.curve for r in found.rows):
        signs = [np.sign(r.deviations) for r in found.rows if r.curve == curve]
        if curve != "dense" and len(signs) >= 2 and abs(sum(signs)) == len(signs) > size[curve] / 2:
            formats.append(curve)
    return tuple(formats)


def most_rows(fit: Fit) -> int:
    """How many rows may be named: a third of those that the fitted numbers leave over."""
    rows = int((fit.problem.weight > 0).sum())
    return int(MOST * (rows - fit.free.sum()))


def _residuals(fit: Fit, z: np.ndarray) -> np.ndarray:
    """Weighted residuals of coordinates z (M, p) in the units of the objective (M, R)."""
    predicted = np.stack([replace(fit, z=one).predicted for one in z])
    loss, root = fit.problem.loss, np.sqrt(fit.problem.weight)
    return root * (np.log(loss) - np.log(predicted) if fit.settings.logarithmic else loss - predicted)


def _nearest(fit: Fit, size: np.ndarray, count: int) -> np.ndarray:
    """Which rows are the `count` of smallest size (M, R), one at least of each format that has a number of its own."""
    size = np.where(fit.problem.weight > 0, size, np.inf)
    curve = np.array([r.curve for r in fit.table.rows])
    own = [curve == name.removeprefix("rho[").removesuffix("]") for name in fit.problem.names if "rho[" in name]
    rank = size.copy()
    for mine in own:
        if mine.any():
            best = np.flatnonzero(mine)[np.argmin(size[:, mine], axis=1)]
            rank[np.arange(len(size)), best] = -1.0
    order = np.argsort(rank, axis=1, kind="stable")
    keep = np.zeros(size.shape, bool)
    np.put_along_axis(keep, order[:, :count], True, axis=1)
    return keep


def _solve(fit: Fit, start: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates and objectives of fits to the rows kept (M, R), from `start` (M, p)."""
    weight = np.where(keep, fit.problem.weight, 0.0)
    solved = fit.solve(fit.batch(start, weight=weight, upper=_upper(fit, keep)))
    return solved.z, np.where(np.isfinite(solved.objective), solved.objective, np.inf)


def _upper(fit: Fit, keep: np.ndarray) -> np.ndarray:
    """Upper bounds of fits to the rows kept (M, R): E ends at the smallest loss of those, which one row can mistake."""
    upper = np.tile(fit.upper, (len(keep), 1))
    if "E" in fit.problem.names and fit.free[fit.problem.names.index("E")]:
        counted = keep & (fit.problem.weight > 0)
        upper[:, fit.problem.names.index("E")] = np.where(counted, fit.problem.loss, np.inf).min(axis=1)
    return upper


def _trimmed(fit: Fit, drop: int) -> Fit:
    """The fit whose sum of squares over all rows but `drop` is smallest, over all starts."""
    random = np.random.default_rng(fit.settings.seed)
    rows, p = int((fit.problem.weight > 0).sum()), int(fit.free.sum())
    few = [min(rows - drop, max(p + 2, rows // share)) for share in (4, 3)]
    spread = starting_points(fit.problem, fit.lower, fit.upper, count=SUBSETS, seed=fit.settings.seed)
    order = random.random((2, SUBSETS // 2, len(fit.table)))
    keep = np.concatenate([_nearest(fit, o, count) for o, count in zip(order, few, strict=True)])
    z = np.concatenate([_solve(fit, spread, keep)[0], fit.optima[:3], fit.z[None]])
    near = np.sort(_residuals(fit, z) ** 2, axis=1)[:, : rows - drop].sum(axis=1)
    z = z[np.argsort(np.nan_to_num(near, nan=np.inf), kind="stable")[:CONCENTRATED]]
    for _ in range(CONCENTRATIONS):
        keep = _nearest(fit, np.abs(_residuals(fit, z)), rows - drop)
        z, _ = _solve(fit, z, keep)
    squares = _residuals(fit, z) ** 2
    inside = _nearest(fit, squares, rows - drop)
    best = int(np.nanargmin(np.sum(np.where(inside, squares, 0.0), axis=1)))
    return replace(fit, z=z[best], upper=_upper(fit, keep[best][None])[0])


def _without(fit: Fit, outside: np.ndarray, near: np.ndarray) -> Fit:
    """The law fitted to the other rows, from many starts and from `near`."""
    kept = replace(fit.problem, weight=np.where(outside, 0.0, fit.problem.weight))
    upper = _upper(fit, ~outside[None])[0]
    spread = starting_points(kept, fit.lower, upper, count=fit.settings.starts, seed=fit.settings.seed)
    start = np.concatenate([near[None], fit.optima, spread])
    z, objective = _solve(fit, start, np.tile(~outside, (len(start), 1)))
    best = int(np.argmin(objective))
    return replace(fit, problem=kept, upper=upper, z=z[best], objective=float(objective[best]), optima=z[best][None])


def _search(at: Fit, drop: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Rows outside (R,), every row's distance in deviations (R,), and whether all that may be named are outside.

    Linearised at the coordinates of `at`, so that a fit to any set of rows is a least-squares solution.
    """
    counted = np.flatnonzero(at.problem.weight > 0)
    movable = at.free & ~np.isin(at.problem.names, at.bounds_hit)
    slope = jacobian(at)[:, movable]
    slope = (slope * np.sqrt(at.problem.weight)[:, None])[counted]
    off = _residuals(at, at.z[None])[0][counted]
    inside = _nearest(at, np.abs(_residuals(at, at.z[None])), len(counted) - drop)[0][counted]
    outside, distance = search(slope, off, inside)
    every, far = np.zeros(len(at.table), bool), np.zeros(len(at.table))
    every[counted], far[counted] = outside, distance
    return every, far, int(outside.sum()) == drop
