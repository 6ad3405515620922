"""Rolling held-out errors: a law fitted to the smaller models, or to the shorter trainings, predicts the rest.

What a table says of extrapolation is how well its own small runs predict its own large ones. Folds keep held-out rows
in place with weight zero, so each is one more problem of the same compiled program.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from capscale.analysis.conditioning import column_norms
from capscale.analysis.fit import Fit
from capscale.analysis.starts import starting_points
from capscale.analysis.table import Table

Axis = Literal["N", "D"]
FOLD_STARTS = 8
"""Starting points of a fold, besides the optima of the fit to all rows."""
LEAST_SIZES = 3
"""Sizes from which larger ones are predicted: two leave alpha and E without a say."""
LEAST_LENGTHS = 2
"""Trainings of one size from which longer ones are predicted."""
NEAR = np.log(1.25)
"""Sizes within this of the nearest one say how long models of a size were trained."""
NO_DISTANCE = 0.05
"""E-folds that count as within the runs: sizes and tokens are rounded."""
MOST_STEPS = 12
"""Distinct sizes, or lengths of one size, from which cuts are made at quantiles."""
QUANTILES = (0.5, 0.65, 0.8)


class Beyond(NamedTuple):
    """How far rows lie beyond others, in e-folds of N and of D (R,); 0 within their range.

    D counts from the longest, and shortest, training of about the nearest size; in tokens or in tokens per parameter,
    whichever is nearer: a larger model that was trained in proportion lies beyond in N alone.
    """

    N: np.ndarray
    D: np.ndarray


@dataclass(frozen=True)
class Rollout:
    """One cut of a table: a law refitted to what lies below, and what it says of every row."""

    axis: Axis
    cut: str
    """In words: the largest size, or how many of the longest trainings of each size are held out."""
    train: np.ndarray
    """(R,) bool."""
    test: np.ndarray
    """(R,) bool: beyond the cut in this direction; rows that lie beyond in another one are in neither."""
    beyond: Beyond
    z: np.ndarray
    predicted: np.ndarray
    """(R,) nats."""
    variance: np.ndarray
    """Of the prediction, by the law's linear theory on the rows below the cut (R,)."""
    noise: float
    """Variance of single runs about the law there."""


class Cut(NamedTuple):
    """Rows to fit and rows to predict."""

    axis: Axis
    words: str
    train: np.ndarray
    test: np.ndarray


def beyond(table: Table, of: Table, train: np.ndarray | None = None) -> Beyond:
    """How far the rows of `table` lie beyond those of `of`, or beyond its rows `train`."""
    rows = np.ones(len(of), bool) if train is None else train
    known_N, known_D = np.log(of.column("N")[rows]), np.log(of.column("D")[rows])
    log_N, log_D = np.log(table.column("N")), np.log(table.column("D"))
    out_N = np.maximum(0.0, np.maximum(log_N - known_N.max(), known_N.min() - log_N))
    out_D = np.empty(len(table))
    for i, (n, d) in enumerate(zip(log_N, log_D, strict=True)):
        nearest = known_N[np.argmin(np.abs(known_N - n))]
        near = np.abs(known_N - nearest) <= NEAR
        lengths, ratios = known_D[near], (known_D - known_N)[near]
        in_tokens = max(0.0, d - lengths.max(), lengths.min() - d)
        out_D[i] = min(in_tokens, max(0.0, d - n - ratios.max(), ratios.min() - d + n))
    return Beyond(*(np.where(x < NO_DISTANCE, 0.0, x) for x in (out_N, out_D)))


def cuts(table: Table, most: int | None = None) -> tuple[Cut, ...]:
    """The cuts in N and in D that a table allows, those that leave least first; at most `most` of each."""
    found = [usable(table, c) for c in (*_cuts_in_size(table), *_cuts_in_length(table))]
    kept: list[Cut] = []
    for axis in ("N", "D"):
        mine = [c for c in found if c.axis == axis and c.test.any()]
        kept += mine if most is None else mine[-most:]
    return tuple(kept)


def usable(table: Table, cut: Cut) -> Cut:
    """The cut without held-out rows of formats that no row below it has: those are another question than reach."""
    curve = np.array([r.curve for r in table.rows])
    return cut._replace(test=cut.test & np.isin(curve, np.unique(curve[cut.train])))


def size_cut(table: Table, limit: float) -> Cut:
    """Models of up to `limit` parameters, and the larger ones."""
    N = table.column("N")
    return Cut("N", f"N <= {limit:.4g}", limit >= N, limit < N)


def ratio_cut(table: Table, limit: float) -> Cut:
    """Trainings of up to `limit` tokens per parameter, and the longer ones."""
    ratio = table.column("D") / table.column("N")
    return Cut("D", f"D/N <= {limit:.4g}", limit >= ratio, limit < ratio)


def longest_left_out(table: Table, count: int) -> Cut:
    """All but the `count` longest trainings of each size, of sizes that keep `LEAST_LENGTHS`; others stay whole."""
    N, D = table.column("N"), table.column("D")
    train, test = np.ones(len(N), bool), np.zeros(len(N), bool)
    for n in np.unique(N):
        mine = n == N
        each = np.unique(D[mine])
        if len(each) - count < LEAST_LENGTHS:
            continue
        longer = mine & (each[-count] <= D)
        train &= ~longer
        test |= longer
    return Cut("D", f"without the longest {count} of each size", train, test)


def _cuts_in_size(table: Table) -> list[Cut]:
    N = table.column("N")
    sizes = np.unique(N)
    limits = sizes[LEAST_SIZES - 1 : -1] if len(sizes) <= MOST_STEPS else np.quantile(N, QUANTILES, method="lower")
    return [size_cut(table, float(limit)) for limit in np.unique(limits)]


def _cuts_in_length(table: Table) -> list[Cut]:
    N, D = table.column("N"), table.column("D")
    lengths = [len(np.unique(D[n == N])) for n in np.unique(N)]
    if len(lengths) > MOST_STEPS or max(lengths) > MOST_STEPS:
        limits = np.unique(np.quantile(D / N, QUANTILES, method="lower"))
        return [ratio_cut(table, float(limit)) for limit in limits]
    return [longest_left_out(table, count) for count in range(max(lengths) - LEAST_LENGTHS, 0, -1)]


def roll_out(fit: Fit, cut: Cut) -> Rollout | None:
    """The law refitted to the rows below a cut; None where they are no more than its numbers, or it overflows."""
    problem = fit.problem
    weight = np.where(cut.train, problem.weight, 0.0)
    refit = _refit(fit, weight)
    with np.errstate(over="ignore", invalid="ignore"):
        J, residuals = problem.jacobian(refit.z), problem.loss - problem.predict(refit.z)
        finite = np.isfinite(np.sum(J**2) + np.sum(residuals**2))
    if not finite:
        return None
    inside = refit.free & ~np.isin(problem.names, refit.bounds_hit)
    known = J[:, inside] * np.sqrt(weight)[:, None]
    moved = np.linalg.norm(known, axis=0) > 1e-150
    left = int((weight > 0).sum()) - int(moved.sum())
    if left < 1:
        return None
    noise = float(np.sum(weight * residuals**2) / np.mean(weight[weight > 0]) / left)
    norms = column_norms(known)
    _, singular, V = np.linalg.svd(known / norms, full_matrices=False)
    spread = (J[:, inside] / norms) @ V.T / np.maximum(singular, 1e-6 * singular[0])
    variance = noise * np.sum(spread**2, axis=1)
    where = beyond(fit.table, fit.table, cut.train)
    return Rollout(cut.axis, cut.words, cut.train, cut.test, where, refit.z, problem.predict(refit.z), variance, noise)


def _refit(fit: Fit, weight: np.ndarray) -> Fit:
    problem = replace(fit.problem, weight=weight)
    spread = starting_points(problem, fit.lower, fit.upper, count=FOLD_STARTS, seed=fit.settings.seed)
    starts = np.concatenate([fit.optima[:4], spread])
    solution = fit.solve(fit.batch(starts, weight=weight[None]))
    best = int(np.nanargmin(solution.objective))
    return replace(fit, z=solution.z[best], objective=float(solution.objective[best]))
