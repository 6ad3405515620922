"""How well one law predicts runs that it was not fitted to.

Held-out rows keep their place with weight zero, so every fold is one more problem of the same compiled program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from capscale.analysis.ensemble import NORMAL, Ensemble, calibrate, half_widths
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.forecasts import Tried, moments, try_cut
from capscale.analysis.law import Law
from capscale.analysis.rollouts import Axis, Cut
from capscale.analysis.starts import starting_points
from capscale.analysis.table import Table
from capscale.errors import UserError

FOLD_STARTS = 16
"""Starting points of a fold, besides the optima of the fit to all rows."""


@dataclass(frozen=True)
class Fold:
    """One set of held-out rows and how far off they were predicted."""

    name: str
    rows: np.ndarray
    """Which rows were held out (R,), boolean."""
    errors: np.ndarray
    """Measured minus predicted loss of those rows, in nats (T,)."""

    @property
    def rmse(self) -> float:
        """Root mean squared error of the fold."""
        return pooled((self,))


@dataclass(frozen=True)
class BeyondCut(Fold):
    """The rows beyond one cut, with the intervals that were stated of them."""

    axis: Axis
    inside: np.ndarray
    """Which of the losses lie inside their stated 95 % intervals (T,)."""
    width: np.ndarray
    """Of those intervals, in nats (T,)."""


@dataclass(frozen=True)
class Validation:
    """One line of the bench: a law on a table, or the ensemble.

    Attributes:
      name, equation: of the law; of the ensemble its name and its laws.
      fit: None where the table cannot carry the law, and of the ensemble.
      runs: how many it was fitted to; 0 where it could not be.
      numbers: how many were fitted.
      rmse: of the runs that it was fitted to, in nats.
      beyond: rollouts, a fold for each cut below which it could be fitted.
      formats: a fold for each format left out; empty for laws that cannot predict a format they have not seen.
      tried: what the rollouts of a law are, by cut (None: it could not be fitted below that one).
      why: the reason where the table cannot carry it.
    """

    name: str
    equation: str
    fit: Fit | None = None
    runs: int = 0
    numbers: int = 0
    rmse: float = float("nan")
    beyond: tuple[BeyondCut, ...] = ()
    formats: tuple[Fold, ...] = ()
    tried: tuple[Tried | None, ...] = ()
    why: str = ""

    def along(self, axis: Axis) -> tuple[BeyondCut, ...]:
        """The rollouts in one direction."""
        return tuple(f for f in self.beyond if f.axis == axis)

    @property
    def inside(self) -> float:
        """Share of the rows beyond all cuts whose loss is inside its 95 % interval; NaN without any."""
        return float(np.mean(np.concatenate([f.inside for f in self.beyond]))) if self.beyond else float("nan")

    @property
    def width(self) -> float:
        """Median width of those intervals, in nats; NaN without any."""
        return float(np.median(np.concatenate([f.width for f in self.beyond]))) if self.beyond else float("nan")


def pooled(folds: Sequence[Fold]) -> float:
    """RMSE over all rows of the folds; NaN without any."""
    return float(np.sqrt(np.mean(np.concatenate([f.errors for f in folds]) ** 2))) if folds else float("nan")


def hold_out(whole: Fit, masks: Mapping[str, np.ndarray]) -> tuple[Fold, ...]:
    """Refit without each mask's rows (R,) and predict them."""
    problem = whole.problem
    spread = starting_points(problem, whole.lower, whole.upper, count=FOLD_STARTS, seed=whole.settings.seed)
    starts = np.concatenate([whole.optima[:4], spread])
    folds = []
    for name, mask in masks.items():
        weight = np.where(mask, 0.0, problem.weight)
        solution = whole.solve(whole.batch(starts, weight=weight[None]))
        z = solution.z[int(np.nanargmin(solution.objective))]
        predicted = problem.predict(z)
        folds.append(Fold(name, mask, problem.loss[mask] - predicted[mask]))
    return tuple(folds)


def format_masks(table: Table) -> dict[str, np.ndarray]:
    """One mask per compressed format."""
    curve = np.array([r.curve for r in table.rows])
    return {c: curve == c for c in table.curves if not table.first_of_curve[c].is_dense}


def validate(
    table: Table,
    law: Law,
    cuts: Sequence[Cut] = (),
    settings: Settings | None = None,
    constraints: Constraints | None = None,
) -> Validation:
    """Fit a law to all rows of a table, predict those beyond each cut, and those of each format, from the others.

    A law that the table cannot carry says why.
    """
    try:
        whole = fit(table, law, settings, constraints)
    except UserError as e:
        return Validation(law.name, law.equation, why=str(e).removeprefix(f"{table.source}: "))
    tried = tuple(try_cut(whole, cut) for cut in cuts)
    return Validation(
        law.name,
        law.equation,
        whole,
        len(table),
        int(whole.free.sum()),
        whole.rmse,
        tuple(_beyond(whole, t) for t in tried if t is not None),
        hold_out(whole, format_masks(table)) if _predicts_formats(whole) else (),
        tried,
    )


def _beyond(whole: Fit, tried: Tried) -> BeyondCut:
    """Errors of the law itself, and its intervals, which lie about what its mixed model says."""
    rollout, said = tried.rollout, moments([(1.0, tried.forecast)])
    loss = whole.problem.loss[rollout.test]
    half = NORMAL * np.sqrt(said.variance)
    errors = loss - rollout.predicted[rollout.test]
    return BeyondCut(rollout.cut, rollout.test, errors, rollout.axis, np.abs(loss - said.mean) <= half, 2 * half)


def validate_ensemble(ensemble: Ensemble) -> Validation:
    """The line of an ensemble: every cut's intervals are calibrated by the rollouts of the other cuts."""
    folds = []
    for k, fold in enumerate(ensemble.folds):
        calibration = calibrate([f for j, f in enumerate(ensemble.folds) if j != k], ensemble.table)
        half = half_widths(fold.variance, fold.beyond, fold.strength, calibration)
        folds.append(BeyondCut(fold.cut, fold.test, fold.error, fold.axis, np.abs(fold.error) <= half, 2 * half))
    predicted = ensemble.weights @ np.array([f.predicted for f in ensemble.fits])
    return Validation(
        f"ensemble ({len(ensemble.fits) + len(ensemble.left_out)} laws)",
        "weighted by rollouts: " + ", ".join(ensemble.law_names),
        runs=len(ensemble.table),
        numbers=int(sum(f.free.sum() for f in ensemble.fits)),
        rmse=float(np.sqrt(np.mean((ensemble.table.column("loss") - predicted) ** 2))),
        beyond=tuple(folds),
    )


def _predicts_formats(whole: Fit) -> bool:
    """Whether the law says something of a format that it was not fitted to."""
    return not whole.law.per_format and len(format_masks(whole.table)) > 1 and not _alone_in_group(whole)


def _alone_in_group(fit: Fit) -> bool:
    """True where some format is the only one that its set of numbers is fitted to, and so cannot be held out."""
    a = fit.problem.arrays
    users: dict[int, set[str]] = {}
    for row, present, groups in zip(fit.table.rows, a.present, a.group, strict=True):
        for g in groups[present]:
            users.setdefault(int(g), set()).add(row.curve)
    return any(len(curves) < 2 for curves in users.values())
