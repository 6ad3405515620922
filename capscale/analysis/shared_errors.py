"""Errors that rows share: their levels, found from a table, and what its residuals say of their size.

Runs of one size share its learning rate and its initialisation, those of one size and number of tokens their data,
and the checkpoints of a run everything. Residuals are modelled as y = f(z) + sum_k Z_k u_k + e with independent
u_k ~ N(0, lambda_k sigma^2) and e ~ N(0, sigma^2): `whitening` has the covariance that follows.

The ratios lambda have a posterior on a grid: restricted likelihood (Patterson & Thompson 1971, Biometrika 58) of the
law linearised at its optimum, sigma integrated out, part of the prior mass on lambda = 0 for each level, and the rest
half-Cauchy in its deviation over that of all finer errors together (Gelman 2006, Bayesian Analysis 1). So independent
rows keep their narrow intervals, and few groups, which cannot deny a shared error, leave it as probable as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Literal

import numpy as np

from capscale.analysis.table import Table
from capscale.errors import UserError

Level = Literal["run", "cell", "size"]
Asked = Literal["auto", "none"] | tuple[Level, ...]
"""Levels of shared errors: those that a table has, none, or these."""
LEVELS: tuple[Level, ...] = ("run", "cell", "size")
"""Finest first. A run has checkpoints, or was measured more than once; a cell is one N and D, a size one N."""
DEVIATIONS = np.concatenate([[0.0], np.geomspace(0.1, 1000.0, 25)])
"""Errors of a level over all finer ones together, those of single rows among them: the deviations of the grid."""
ABSENT = 0.25
"""Prior probability that a level has no errors of its own. By simulation of 4 sizes, as in scripts/bench_coverage.py:
at a half, intervals of alpha and E under an error shared by size cover .88 and .90."""
OUTLYING = 5.0
"""Robust standard deviations beyond which a residual says nothing more of variances: the fit is robust as well."""
NEGLIGIBLE = 1e-7
"""Posterior probability below which a point of the grid is dropped."""


@dataclass(frozen=True)
class SharedErrors:
    """Levels of shared errors of R rows, and their variances.

    `group` (K, R) holds the index of every row's group, the finest level first; `ratio` (K,) the estimate of
    lambda. `grid` (M, K) and `probability` (M,) are the posterior. `unit` (R,) says which rows are drawn as one when
    rows are resampled: the checkpoints of a run.
    """

    levels: tuple[Level, ...]
    group: np.ndarray
    ratio: np.ndarray
    grid: np.ndarray
    probability: np.ndarray
    unit: np.ndarray

    def none(self) -> "SharedErrors":
        """The same levels without any error."""
        K = len(self.levels)
        return replace(self, ratio=np.zeros(K), grid=np.zeros((1, K)), probability=np.ones(1))

    @property
    def present(self) -> dict[Level, float]:
        """Posterior probability that a level has errors of its own."""
        return {k: float(self.probability @ (self.grid[:, i] > 0)) for i, k in enumerate(self.levels)}

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Ratios from the posterior (count, K)."""
        return self.grid[random.choice(len(self.grid), count, p=self.probability)]

    def effects(self, residuals: np.ndarray, active: np.ndarray) -> dict[Level, np.ndarray]:
        """Expected errors of every group, given residuals (R,), in their units: lambda Z^T V^-1 r."""
        rest, one, sums = np.where(active, residuals, 0.0), active.astype(float), {}
        for mine, share in zip(self.group, self.ratio, strict=True):
            shrink = 1 / (1 + share * np.bincount(mine, one))
            rest = rest - one * (share * shrink * np.bincount(mine, rest))[mine]
            one = one * shrink[mine]
        for level, mine, share in zip(self.levels, self.group, self.ratio, strict=True):
            sums[level] = share * np.bincount(mine, rest)
        return sums


def shared_levels(table: Table, asked: Asked = "auto") -> SharedErrors:
    """The levels of a table's shared errors, all of ratio 0.

    A level is there when it has two groups or more, and one of two rows or more, and is no other level by another
    name: of a size and the cell that coincides with it the size stays. Where rows are checkpoints, runs cross the
    cells, which then have no level. Raises UserError for a level asked for that is not there.
    """
    wanted: list[Level] = [] if asked == "none" else [k for k in LEVELS if asked == "auto" or k in asked]
    for level in () if isinstance(asked, str) else asked:
        if level not in LEVELS:
            raise UserError(f"shared errors by {level!r}: the levels are {', '.join(LEVELS)}, or auto, or none")
    keys = {
        "run": [r.run for r in table.rows],
        "cell": [(r.N, r.D) for r in table.rows],
        "size": [r.N for r in table.rows],
    }
    groups = {level: _indices(keys[level]) for level in LEVELS}
    trajectories = _within(groups["run"], groups["size"]) and not _within(groups["run"], groups["cell"])
    kept: list[Level] = []
    for level in reversed(wanted):
        why_not = _why_not(groups, level, kept)
        if why_not and asked != "auto":
            raise UserError(f"{table.source}: no error is shared by {level}: {why_not}; leave it out of --shared")
        if not why_not:
            kept.insert(0, level)
    if trajectories and {"run", "cell"} <= set(kept):
        if asked != "auto":
            raise UserError(f"{table.source}: runs are trajectories through several cells; name run or cell, not both")
        kept.remove("cell")
    K, R = len(kept), len(table)
    group = np.array([groups[level] for level in kept], np.int64).reshape(K, R)
    unit = groups["run"] if trajectories and "run" in wanted else np.arange(R)
    return SharedErrors(tuple(kept), group, np.zeros(K), np.zeros((1, K)), np.ones(1), unit)


def _indices(keys: Sequence[object]) -> np.ndarray:
    places: dict[object, int] = {}
    return np.array([places.setdefault(k, len(places)) for k in keys])


def _within(fine: np.ndarray, coarse: np.ndarray) -> bool:
    """Whether every group of `fine` lies in one of `coarse`."""
    return len(np.unique(np.stack([fine, coarse]), axis=1).T) == fine.max() + 1


def _why_not(groups: dict[str, np.ndarray], level: Level, coarser: Sequence[Level]) -> str:
    mine = groups[level]
    count = int(mine.max()) + 1
    if count == len(mine):
        return f"every row has a {level} of its own"
    if count == 1:
        return f"all rows have one {level}"
    if not _within(mine, groups["size"]):
        return f"rows of one {level} have several sizes"
    same = [k for k in coarser if _within(mine, groups[k]) and groups[k].max() == mine.max()]
    return f"{level} and {same[0]} are the same rows" if same else ""


def infer(shared: SharedErrors, residuals: np.ndarray, jacobian: np.ndarray, active: np.ndarray) -> SharedErrors:
    """The posterior of the ratios given residuals (R,) and the Jacobian (R, p) at the optimum, and its estimate.

    The estimate is the median of every level that the most probable set of levels has, and exactly 0 for the others.
    """
    if not shared.levels:
        return shared
    rest, basis = _projected(residuals[active], jacobian[active])
    freedom = len(rest) - basis.shape[1]
    likelihood, grid = _restricted_likelihood(shared.group[:, active], rest, basis, freedom)
    log = likelihood + np.log(_prior(len(shared.levels)))
    probability = np.exp(log - log.max())
    probability /= probability.sum()
    kept = probability > NEGLIGIBLE
    probability = probability[kept] / probability[kept].sum()
    grid = grid[kept]
    return replace(shared, ratio=_estimate(grid, probability), grid=grid, probability=probability)


def log_likelihood(
    shared: SharedErrors, residuals: np.ndarray, jacobian: np.ndarray, active: np.ndarray, freedom: int
) -> float:
    """Logarithm of how likely residuals (R,) are by a law linearised at its optimum, the ratios integrated out.

    Up to a constant of the table: its numbers are integrated out as well, by a prior as wide, up to a factor, as
    independent rows would know them. Laws are compared at one `freedom`, that of the law of most numbers.
    """
    rest, basis = _projected(residuals[active], jacobian[active])
    if not shared.levels:
        return float(-0.5 * freedom * np.log(max(float(rest @ rest), 1e-300)))
    likelihood, _ = _restricted_likelihood(shared.group[:, active], rest, basis, freedom)
    top = likelihood.max()
    return float(top + np.log(np.exp(likelihood - top) @ _prior(len(shared.levels))))


def _prior(levels: int) -> np.ndarray:
    """Mass of every point of the grid (M,)."""
    each = np.where(DEVIATIONS > 0, (1 - ABSENT) * _half_cauchy(), ABSENT)
    return np.array([np.prod(masses) for masses in product(each, repeat=levels)])


def _half_cauchy() -> np.ndarray:
    """Mass of each deviation above 0 on the geometric grid; 0 for the first, which is 0."""
    density = DEVIATIONS / (1 + DEVIATIONS**2)
    return density / density.sum()


def _projected(residuals: np.ndarray, jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares residuals of the linearised law, outliers drawn in, and an orthonormal basis of its columns."""
    norms = np.linalg.norm(jacobian, axis=0)
    U, singular, _ = np.linalg.svd(jacobian / np.where(norms > 0, norms, 1.0), full_matrices=False)
    U = U[:, singular > 1e-9 * singular[0]]
    rest = residuals - U @ (U.T @ residuals)
    freedom = len(rest) - U.shape[1]
    # The fit may pass through p rows exactly: a quantile above the median is of the others.
    spread = np.quantile(np.abs(rest), 0.75) / 1.1503 * np.sqrt(len(rest) / max(freedom, 1))
    return (np.clip(rest, -OUTLYING * spread, OUTLYING * spread) if spread > 0 else rest), U


def _restricted_likelihood(
    group: np.ndarray, rest: np.ndarray, basis: np.ndarray, freedom: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of the restricted likelihood at every point of the grid (M,), and the grid of ratios (M, K).

    With X = (basis, rest), X^T V^-1 X needs sums over groups only: a level takes away lambda / (1 + lambda q) t t^T
    for each of its groups, t the group's sum of V^-1 X and q of V^-1 1 over the finer levels.
    """
    X = np.column_stack([basis, rest])
    sums, counts = _summed(X, group[0]), np.bincount(group[0]).astype(float)
    up = [_parents(fine, coarse) for fine, coarse in pairwise(group)]
    values, points = [], []
    for finer in product(DEVIATIONS**2, repeat=len(group) - 1):
        t, q, M, log_det, total = sums, counts, X.T @ X, 0.0, 1.0
        point = []
        for relative, parent in zip(finer, up, strict=True):
            ratio = relative * total
            total += ratio
            point.append(ratio)
            M = M - (t * (ratio / (1 + ratio * q))[:, None]).T @ t
            log_det += np.sum(np.log1p(ratio * q))
            shrink = 1 / (1 + ratio * q)
            t, q = _summed(t * shrink[:, None], parent), np.bincount(parent, q * shrink)
        ratios = total * DEVIATIONS**2
        each = ratios[:, None] / (1 + ratios[:, None] * q)
        M = M - np.einsum("mg,gi,gj->mij", each, t, t)
        log_det = log_det + np.sum(np.log1p(ratios[:, None] * q), axis=1)
        inner, edge = M[:, :-1, :-1], M[:, :-1, -1]
        squares = M[:, -1, -1] - np.einsum("mi,mi->m", edge, np.linalg.solve(inner, edge[..., None])[..., 0])
        squares = np.maximum(squares, 1e-300)
        values.append(-0.5 * (freedom * np.log(squares) + log_det + np.linalg.slogdet(inner)[1]))
        points += [(*point, ratio) for ratio in ratios]
    return np.concatenate(values), np.array(points)


def _summed(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    total = np.zeros((int(group.max()) + 1, x.shape[1]))
    np.add.at(total, group, x)
    return total


def _parents(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """The group of `coarse` that each group of `fine` lies in."""
    parents = np.zeros(int(fine.max()) + 1, np.int64)
    parents[fine] = coarse
    return parents


def _estimate(grid: np.ndarray, probability: np.ndarray) -> np.ndarray:
    patterns, mine = np.unique(grid > 0, axis=0, return_inverse=True)
    mine = mine.reshape(-1)
    best = int(np.argmax(np.bincount(mine, probability)))
    inside = np.where(mine == best, probability, 0.0)
    return np.array([_median(grid[:, k], inside) if on else 0.0 for k, on in enumerate(patterns[best])])


def _median(values: np.ndarray, mass: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(mass[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
