"""Several laws as one predictor: weighted by their rolling held-out errors, its intervals calibrated by its own.

Which law holds beyond the runs is not known from within them. The laws of an ensemble are rolled out on the table
(`rollouts`): each predicts the larger models from the smaller ones, and longer trainings from shorter ones. What the
ensemble missed there, beyond what its own theory of errors admits, grows with the log distance, and is part of every
interval: none is stated farther out than the table could try.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.stats import t as student

from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.forecasts import Tried, moments, try_cut
from capscale.analysis.law import Law
from capscale.analysis.mixed import Posterior, mixture
from capscale.analysis.rollouts import Axis, Beyond, beyond, cuts
from capscale.analysis.selection import rows_of
from capscale.analysis.table import Row, Table
from capscale.errors import UserError

AXES: tuple[Axis, ...] = ("N", "D")
LEVEL = 0.95
NORMAL = 1.959964
"""Quantile of the normal distribution for it."""
PRIOR_FOLDS = 4.0
"""Degrees of freedom of a growth that no fold has told."""
LEAST_BEYOND = 0.05
"""Distance that a row beyond a cut counts at least as, in e-folds."""
BY_CHANCE = 0.05
"""Tolerance of distances, as a share: rounding of sizes is no extrapolation."""
MOST_CUTS = 4
"""Cuts in each direction: those that leave least are the farthest from what is asked."""


@dataclass(frozen=True)
class Fold:
    """Predictions of the rows beyond one cut by an ensemble that knows only those below it."""

    axis: Axis
    cut: str
    beyond: Beyond
    """Of the held-out rows (T,)."""
    test: np.ndarray
    """Which rows (R,)."""
    error: np.ndarray
    """Measured less predicted (T,)."""
    variance: np.ndarray
    """By the ensemble's own theory: laws, numbers, departures of formats, shared errors, single runs (T,)."""
    weights: np.ndarray
    """Of the laws, by earlier cuts (L,)."""
    strength: np.ndarray
    """1 + |log rho| of the rows (T,): misses grow with how much is compressed."""

    @property
    def rmse(self) -> float:
        """Root mean squared error, in nats."""
        return float(np.sqrt(np.mean(self.error**2)))


@dataclass(frozen=True)
class Calibration:
    """How far from the runs intervals are stated, and what is added to them there.

    Attributes:
      growth: deviation of what the laws miss, in nats an e-fold beyond the runs, in N and in D, of dense models; of a
        format of capacity rho it is 1 + |log rho| times that.
      reach: e-folds that the rollouts tried, 0 where the table allows none.
      folds: how many.
      common: share of what they missed that all formats of one N and D had in common.
      covered: of the held-out rows, the share inside the 95 % intervals of the theory alone, without growth.
    """

    growth: dict[Axis, float]
    reach: dict[Axis, float]
    folds: dict[Axis, int]
    common: float
    covered: float

    def added(self, by: Beyond, strength: np.ndarray) -> np.ndarray:
        """Variance added at these distances, for formats of this strength of compression (R,)."""
        return ((self.growth["N"] * by.N) ** 2 + (self.growth["D"] * by.D) ** 2) * strength**2

    def stated(self, by: Beyond) -> np.ndarray:
        """Whether an interval is stated there (R,)."""
        within = [getattr(by, a) <= self.reach[a] * (1 + BY_CHANCE) for a in AXES]
        return within[0] & within[1]

    def freedom(self, by: Beyond) -> np.ndarray:
        """Degrees of freedom of the interval (R,): those of the folds in a direction that is left, else infinite."""
        out = np.full(len(by.N), np.inf)
        for axis in AXES:
            far = getattr(by, axis) > 0
            out = np.where(far, np.minimum(out, self.folds[axis] + PRIOR_FOLDS), out)
        return out


@dataclass(frozen=True)
class Ensemble:
    """Fitted laws, their weights, and what their rollouts say."""

    table: Table
    fits: tuple[Fit, ...]
    weights: np.ndarray
    folds: tuple[Fold, ...]
    calibration: Calibration
    left_out: tuple[tuple[str, str], ...] = ()
    """Laws that could not be fitted, with the reason."""

    @property
    def best(self) -> Fit:
        """The law of most weight."""
        return self.fits[int(np.argmax(self.weights))]

    @cached_property
    def law_names(self) -> tuple[str, ...]:
        """Names of its laws, in the order of the weights."""
        return tuple(f.law.name for f in self.fits)

    def components(self, rows: Sequence[Row]) -> list[tuple[float, Posterior]]:
        """The mixed models of all laws with their shares, for predictions of `rows`."""
        return [
            (float(w * p.share), p)
            for w, f in zip(self.weights, self.fits, strict=True)
            if w > 1e-3
            for p in mixture(f, rows)
        ]


def gathered(
    table: Table, laws: Sequence[Law], settings: Settings | None = None, constraints: Constraints | None = None
) -> Ensemble:
    """The laws fitted to the rows that all of them are about, rolled out and weighted.

    Raises UserError where none can be fitted.
    """
    fits, left_out = [], []
    chosen = rows_of(table, laws[0])
    for law in laws:
        try:
            fits.append(fit(chosen, law, settings, constraints))
        except UserError as error:
            if len(laws) == 1:
                raise
            left_out.append((law.name, str(error)))
    if not fits:
        raise UserError(left_out[0][1])
    tried = [[try_cut(f, cut) for f in fits] for cut in cuts(chosen, MOST_CUTS)]
    return combined(fits, tried, left_out)


def combined(
    fits: Sequence[Fit], tried: Sequence[Sequence[Tried | None]], left_out: Sequence[tuple[str, str]] = ()
) -> Ensemble:
    """The ensemble of laws fitted to one table and tried below the same cuts, each a sequence of the laws' (L,).

    Cuts below which some law cannot be fitted say nothing of the weights, and are left out.
    """
    table = fits[0].table
    whole = [tuple(t for t in each if t is not None) for each in tried]
    rolled = [each for each in whole if len(each) == len(fits)]
    folds = _folds(table, rolled)
    weights = _weigh(_scores(rolled, table, None), len(fits))
    return Ensemble(table, tuple(fits), weights, folds, calibrate(folds, table), tuple(left_out))


def _scores(rolled: Sequence[tuple[Tried, ...]], table: Table, inside: np.ndarray | None) -> np.ndarray:
    """Mean squared errors of the laws (folds, L) on the held-out rows, or on those of them `inside` a smaller table."""
    loss = table.column("loss")
    rows = []
    for each in rolled:
        test = each[0].rollout.test if inside is None else each[0].rollout.test & inside
        if test.any():
            rows.append([np.mean((loss - t.rollout.predicted)[test] ** 2) for t in each])
    return np.array(rows).reshape(len(rows), len(rolled[0]) if rolled else 0)


def _weigh(scores: np.ndarray, laws: int) -> np.ndarray:
    """Weights of laws by predictive likelihood: a fold counts as one observation of unknown variance."""
    if not len(scores):
        return np.full(laws, 1 / laws)
    log = -0.5 * np.sum(np.log(np.maximum(scores, 1e-16)), axis=0)
    weight = np.exp(log - log.max())
    return weight / weight.sum()


def _folds(table: Table, rolled: Sequence[tuple[Tried, ...]]) -> tuple[Fold, ...]:
    """Predictions of the rows beyond each cut by an ensemble that knows only those below it."""
    found: list[Fold] = []
    losses = table.column("loss")
    for k, each in enumerate(rolled):
        first = each[0].rollout
        earlier = [r for r in rolled[:k] if r[0].rollout.axis == first.axis]
        weights = _weigh(_scores(earlier, table, first.train), len(each))
        said = moments([(float(w), t.forecast) for w, t in zip(weights, each, strict=True)])
        if np.median(said.variance) > np.var(losses):
            continue  # the rows below the cut say nothing of those beyond
        by = Beyond(first.beyond.N[first.test], first.beyond.D[first.test])
        error = losses[first.test] - said.mean
        strength = 1 + np.abs(said.log_rho)
        found.append(Fold(first.axis, first.cut, by, first.test, error, said.variance, weights, strength))
    return tuple(found)


def calibrate(folds: Sequence[Fold], table: Table) -> Calibration:
    """Growth of intervals beyond the runs, and how far these are stated, by the rollouts."""
    growth: dict[Axis, float] = {"N": 0.0, "D": 0.0}
    mine = {axis: [f for f in folds if f.axis == axis] for axis in AXES}
    for axis in ("D", "N"):  # rows beyond in N may lie beyond in D too, whose part is known then
        growth[axis] = _growth(mine[axis], axis, growth)
    reach: dict[Axis, float] = {a: max((float(getattr(f.beyond, a).max()) for f in mine[a]), default=0.0) for a in AXES}
    # Larger models that were trained longer were tried in both directions at once.
    reach["D"] = max(reach["D"], max((float(f.beyond.D.max()) for f in folds), default=0.0))
    inside = [np.abs(f.error) <= 1.96 * np.sqrt(f.variance) for f in folds]
    covered = float(np.mean(np.concatenate(inside))) if inside else float("nan")
    return Calibration(growth, reach, {a: len(mine[a]) for a in AXES}, _common(folds, table), covered)


def _growth(folds: Sequence[Fold], axis: Axis, known: dict[Axis, float]) -> float:
    """Least growth at which 95 % of the held-out rows of the folds, on average, lie within their intervals.

    For every row the growth that just reaches it; a weighted quantile of those, rows of a fold weighing 1 together.
    """
    if not folds:
        return 0.0
    other: Axis = "D" if axis == "N" else "N"
    needed, weight = [], []
    for f in folds:
        known_part = f.variance + (known[other] * getattr(f.beyond, other) * f.strength) ** 2
        short = np.maximum((f.error / NORMAL) ** 2 - known_part, 0.0)
        needed.append(np.sqrt(short) / (np.maximum(getattr(f.beyond, axis), LEAST_BEYOND) * f.strength))
        weight.append(np.full(len(short), 1 / len(short)))
    each, mass = np.concatenate(needed), np.concatenate(weight)
    order = np.argsort(each, kind="stable")
    total = np.cumsum(mass[order])
    return float(each[order][np.searchsorted(total, LEVEL * total[-1] - 1e-12)])


def _common(folds: Sequence[Fold], table: Table) -> float:
    """Share of the squared errors that is the mean of its cell's formats, by analysis of variance; 1/2 if unknown."""
    between = within = 0.0
    for fold in folds:
        rows = [r for r, t in zip(table.rows, fold.test, strict=True) if t]
        cells: dict[tuple[float, float], list[float]] = {}
        for row, error in zip(rows, fold.error, strict=True):
            cells.setdefault((row.N, row.D), []).append(float(error))
        for errors in cells.values():
            n = len(errors)
            if n > 1:
                spread = float(np.var(errors, ddof=1))
                between += max(np.mean(errors) ** 2 - spread / n, 0.0)
                within += spread
    return float(between / (between + within)) if between + within > 0 else 0.5


def half_widths(
    variance: np.ndarray, by: Beyond, strength: np.ndarray, calibration: Calibration, level: float = LEVEL
) -> np.ndarray:
    """Half widths of intervals of losses of this variance (R,): Student's with the freedom of the folds."""
    total = variance + calibration.added(by, strength)
    freedom = calibration.freedom(by)
    return student.ppf((1 + level) / 2, np.where(np.isinf(freedom), 1e9, freedom)) * np.sqrt(total)


def beyond_runs(table: Table, rows: Sequence[Row]) -> Beyond:
    """How far rows lie beyond the runs of a table."""

    return beyond(replace(table, rows=tuple(rows)), table)
