"""The law bench: how well each law predicts runs that it was not fitted to.

Held-out rows keep their place with weight zero, so every fold is one more problem of the same compiled program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from capscale.analysis.fit import Constraints, Fit, Settings, fit, starting_points
from capscale.analysis.law import Law
from capscale.analysis.laws import LAWS, law_named
from capscale.analysis.operands import facts
from capscale.analysis.selection import rows_of
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
    """Measured minus predicted loss of those rows, in nats."""

    @property
    def rmse(self) -> float:
        """Root mean squared error of the fold."""
        return float(np.sqrt(np.mean(self.errors**2)))


@dataclass(frozen=True)
class Validation:
    """One law's line in the bench."""

    law: Law
    fit: Fit | None
    """None where the table cannot carry the law; `why` says why."""
    sizes: tuple[Fold, ...] = ()
    formats: tuple[Fold, ...] = ()
    """Empty for laws that cannot predict a format they have not seen."""
    largest: Fold | None = None
    why: str = ""

    @property
    def rows(self) -> int:
        """How many runs the law was fitted to."""
        return len(self.fit.table) if self.fit else 0

    @property
    def line(self) -> dict[str, float]:
        """RMSE in nats of the fit, and of each kind of held-out rows; NaN where there is none."""
        nan = float("nan")
        return {
            "numbers": float(self.fit.free.sum()) if self.fit else nan,
            "fit": self.fit.rmse if self.fit else nan,
            "size held out": pooled(self.sizes),
            "format held out": pooled(self.formats),
            "largest held out": self.largest.rmse if self.largest else nan,
        }


def pooled(folds: Sequence[Fold]) -> float:
    """RMSE over all rows of the folds; NaN without any."""
    return float(np.sqrt(np.mean(np.concatenate([f.errors for f in folds]) ** 2))) if folds else float("nan")


def hold_out(whole: Fit, masks: Mapping[str, np.ndarray]) -> tuple[Fold, ...]:
    """Refit without each mask's rows (R,) and predict them."""
    problem = whole.problem
    spread = starting_points(problem, whole.lower, whole.upper, Settings(starts=FOLD_STARTS, seed=whole.settings.seed))
    starts = np.concatenate([whole.optima[:4], spread])
    folds = []
    for name, mask in masks.items():
        weight = np.where(mask, 0.0, problem.weight)
        solution = whole.solve(whole.batch(starts, weight=weight[None]))
        z = solution.z[int(np.nanargmin(solution.objective))]
        predicted = problem.predict(z)
        folds.append(Fold(name, mask, problem.loss[mask] - predicted[mask]))
    return tuple(folds)


def size_masks(table: Table) -> dict[str, np.ndarray]:
    """One mask per model size."""
    N = table.column("N")
    return {f"N = {n:.4g}": n == N for n in np.unique(N)}


def format_masks(table: Table) -> dict[str, np.ndarray]:
    """One mask per compressed format."""
    curve = np.array([r.curve for r in table.rows])
    return {c: curve == c for c in table.curves if not table.first_of_curve[c].is_dense}


def largest_mask(table: Table, above: float | None = None) -> np.ndarray:
    """The largest third of the sizes, or all sizes above `above`."""
    N = table.column("N")
    sizes = np.unique(N)
    limit = sizes[-max(1, len(sizes) // 3)] if above is None else above
    return (limit <= N) if above is None else (limit < N)


def validate(
    table: Table, law: Law, settings: Settings | None = None, constraints: Constraints | None = None
) -> Validation:
    """Fit a law to the rows it is about, and hold out each size, each format and the largest runs.

    A law that does not fit says why.
    """
    try:
        table = rows_of(table, law)
        whole = fit(table, law, settings, constraints)
    except UserError as e:
        return Validation(law, None, why=str(e))
    unseen = not law.per_format and not _alone_in_group(whole)
    return Validation(
        law,
        whole,
        hold_out(whole, size_masks(table)),
        hold_out(whole, format_masks(table)) if unseen else (),
        hold_out(whole, {"largest sizes": largest_mask(table)})[0],
    )


def _alone_in_group(fit: Fit) -> bool:
    """True where some format is the only one that its set of numbers is fitted to, and so cannot be held out."""
    a = fit.problem.arrays
    users: dict[int, set[str]] = {}
    for row, present, groups in zip(fit.table.rows, a.present, a.group, strict=True):
        for g in groups[present]:
            users.setdefault(int(g), set()).add(row.curve)
    return any(len(curves) < 2 for curves in users.values())


BENCH = (
    "decoupled",
    "tanh",
    "tanh-sat",
    "logistic",
    "logistic-1-0",
    "kumar",
    "frantar",
    "decoupled-coupled",
    "tanh-coupled",
)


def law_bench(
    table: Table,
    names: Sequence[str] = BENCH,
    settings: Settings | None = None,
    constraints: Constraints | None = None,
) -> tuple[Validation, ...]:
    """All laws on one table, whichever wins.

    Where tensors are sparse and quantized, tanh comes twice: rho of the joint GMSE, and the product over the stages.
    """
    laws = [law_named(name) for name in names]
    if "tanh" in names and any(len(facts(n).stages) > 1 for r in table.rows for n in (r.weights, r.activations)):
        laws.append(replace(LAWS["tanh"], name="tanh-product", combination="product"))
    return tuple(validate(table, law, settings, constraints) for law in laws)
