"""Fit a law to a table: many starts, the best kept, and every way in which it may have failed said."""

from dataclasses import dataclass, replace

import numpy as np

from capscale.analysis.arrays import curve_of
from capscale.analysis.conditioning import jacobian
from capscale.analysis.law import Law
from capscale.analysis.law_check import check_derivatives, check_loss
from capscale.analysis.limits import Constraints, bounds, penalty
from capscale.analysis.noise import noise_scale
from capscale.analysis.problem import Problem, pose
from capscale.analysis.shared_errors import Asked, Level, SharedErrors, infer, shared_levels
from capscale.analysis.shipped.capacity import additive, coupled
from capscale.analysis.solver import Batch, Penalty, Solution, solve
from capscale.analysis.starts import starting_points
from capscale.analysis.table import Table
from capscale.analysis.whitening import whiten
from capscale.capacity import Scaling
from capscale.checks import check_finite, check_flag, check_whole
from capscale.errors import UserError

SAME = 1e-7
"""Starts whose objectives agree to this share ended in the same optimum."""
DISTINCT = 1e-3
"""Optima this much worse count as different ones."""
BEYOND = 100.0
"""A Huber threshold beyond any residual: least squares."""
REFITS = 3
"""Rounds between the optimum and the variances of shared errors: both stand still after one or two."""
ON_BOUND = 1e-6
"""Share of the way between both bounds within which a number has ended on one: a step of the numerical derivatives, as
near as a solver comes where the loss hardly falls any more."""


@dataclass(frozen=True)
class Settings:
    """How a law is fitted.

    Attributes:
      delta: Huber threshold, in nats (in log-loss units when `logarithmic`): residuals inside it count as
        squares, outside as absolute values.
      logarithmic: residuals are differences of log loss.
      starts: number of starting points; the best result is kept.
      seed: of the starting points and resamples.
      shared: levels of errors that rows may share (see `shared_errors`): those that the table has, none, or these.
    """

    delta: float = 1e-3
    logarithmic: bool = False
    starts: int = 64
    seed: int = 0
    shared: Asked = "auto"

    def __post_init__(self) -> None:
        check_finite(self, "delta", above=0)
        check_flag(self, "logarithmic")
        check_whole(self, "starts", least=1)
        check_whole(self, "seed")


@dataclass(frozen=True)
class Fit:
    """A fitted law. `z` are its coordinates; `values` what is reported."""

    problem: Problem
    table: Table
    settings: Settings
    constraints: Constraints
    lower: np.ndarray
    upper: np.ndarray
    penalty: Penalty
    z: np.ndarray
    objective: float
    converged: bool
    agreeing: int
    """How many starts ended in the best optimum."""
    optima: np.ndarray
    """Coordinates of the distinct optima found, best first (M, p)."""
    shared: SharedErrors
    """Errors that rows share: `shared.ratio` whitens the residuals of the objective."""

    @property
    def law(self) -> Law:
        """Law that was fitted."""
        return self.problem.law

    @property
    def free(self) -> np.ndarray:
        """Which coordinates were fitted (p,)."""
        return self.upper > self.lower

    @property
    def values(self) -> dict[str, float]:
        """Reported numbers by name; those of the data term are left out of a table of one D, where it is constant."""
        reported = zip(self.problem.names, self.problem.report(self.z), strict=True)
        without = () if self.problem.has_data_term else self.law.data_term
        return {k: float(v) for k, v in reported if k not in without}

    @property
    def scaling(self) -> Scaling:
        """The dense part of a law of the form A (N rho)^-alpha + B D^-beta + E, or of its coupled one."""
        v = self.values
        if self.law.loss not in (additive, coupled):
            raise UserError(f"{self.law.name}: L = {self.law.formula} is not A (N rho)^-alpha + B D^-beta + E")
        return Scaling(v["A"], v["alpha"], v.get("B", 0.0), v.get("beta", 1.0), v["E"], v.get("g", 1.0))

    @property
    def predicted(self) -> np.ndarray:
        """Predicted loss of every row (R,)."""
        return self.problem.predict(self.z)

    @property
    def residuals(self) -> np.ndarray:
        """Measured minus predicted loss, in nats (R,)."""
        return self.problem.loss - self.predicted

    @property
    def rmse(self) -> float:
        """Root mean squared residual, in nats."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def rho(self) -> dict[str, float]:
        """Capacity of every curve of the table, dense = 1; none by a law without capacities."""
        if not self.law.has_rho:
            return {}
        each = np.exp(self.problem.log_rho(self.z))
        first = self.table.first_of_curve
        found = {curve_of(self.law, r): float(rho) for r, rho in zip(self.table.rows, each, strict=True)}
        return {c: found[c] for c in dict.fromkeys(curve_of(self.law, first[c]) for c in self.table.curves)}

    @property
    def bounds_hit(self) -> tuple[str, ...]:
        """Fitted numbers that ended on a bound: not measured, only limited."""
        width = self.upper - self.lower
        near = (self.z - self.lower < ON_BOUND * width) | (self.upper - self.z < ON_BOUND * width)
        return tuple(n for n, hit in zip(self.problem.names, near & self.free, strict=True) if hit)

    @property
    def huber_share(self) -> float:
        """Share of rows whose residual is outside delta: 0 is least squares, near 1 is least absolute deviations."""
        return float(np.mean(np.abs(self.whitened) > self.settings.delta))

    @property
    def noise(self) -> float:
        """Scale tau of the objective: 2 (objective - optimum) / tau is chi-squared under the law (see noise_scale)."""
        count = int(self.free.sum())
        return noise_scale(self.whitened, self.problem.weight, self.settings.delta, count)

    @property
    def whitened(self) -> np.ndarray:
        """Residuals of the objective, which is a sum over them (R,): in its units, and free of what rows share."""
        return self.whiten(self.loss_units)

    def whiten(self, x: np.ndarray, ratio: np.ndarray | None = None) -> np.ndarray:
        """Residuals (R,) or a Jacobian (R, p) as the objective sees them, or at other ratios of shared errors (K,)."""
        used = self.shared.ratio if ratio is None else ratio
        return whiten(x, self.shared.group[used > 0], used[used > 0], self.problem.weight > 0)

    @property
    def freedom(self) -> int:
        """Units that are drawn as one (runs, or rows that are no checkpoints) less the numbers fitted; 1 at least."""
        units = len(np.unique(self.shared.unit[self.problem.weight > 0]))
        return max(units - int(self.free.sum()), 1)

    @property
    def effects(self) -> dict[Level, np.ndarray]:
        """Errors that the rows of every group share, in units of the objective, as far as the residuals show them."""
        return self.shared.effects(self.loss_units, self.problem.weight > 0)

    @property
    def loss_units(self) -> np.ndarray:
        """Measured minus predicted loss, or their logarithms' difference, as the settings say (R,)."""
        if self.settings.logarithmic:
            return np.log(self.problem.loss) - np.log(self.predicted)
        return self.residuals

    def batch(self, start: np.ndarray, **change: np.ndarray) -> Batch:
        """Problems that differ from this fit in `change`, started from `start` (B, p)."""
        B = len(start)
        base: dict[str, np.ndarray] = {"weight": self.problem.weight, "target": self.problem.loss}
        base |= {"lower": self.lower, "upper": self.upper, "start": start}
        base |= {"ratio": self.shared.ratio} | change
        return Batch(**{name: np.broadcast_to(x, (B, x.shape[-1])) for name, x in base.items()})

    def solve(self, batch: Batch, *, warm: bool = False) -> Solution:
        """Solve with this fit's settings and priors; `warm` starts are solutions of neighbouring problems."""
        s = self.settings
        return solve(
            self.problem,
            batch,
            delta=s.delta,
            logarithmic=s.logarithmic,
            group=self.shared.group,
            penalty=self.penalty,
            warm=warm,
        )


def fit(table: Table, law: Law, settings: Settings | None = None, constraints: Constraints | None = None) -> Fit:
    """Fit `law` to `table`.

    Minimises the sum of Huber losses of the residuals from `settings.starts` starting points. The result is the
    same for any order of the rows. Raises UserError where the table cannot carry the law at all; what it can
    carry only in part is for `sentences.fits` to say.
    """
    settings, constraints = settings or Settings(), constraints or Constraints()
    problem = pose(table, law, tuple(constraints.fixed))
    lower, upper = bounds(problem, constraints)
    free = int((upper > lower).sum())
    rows = int((problem.weight > 0).sum())
    if free >= rows:
        raise UserError(
            f"{law.name} has {free} free numbers and {table.source} {rows} rows: none is left to tell the error by; "
            "fix some with --fix, or add runs"
        )
    if np.ptp(problem.loss) == 0:
        raise UserError(
            f"{table.source}: every run has the loss {problem.loss[0]:g}: nothing depends on size, tokens or format "
            "there, and no law can be fitted; check the column"
        )
    if law.per_format and "dense" not in table.curves and not constraints.names_a_format:
        raise UserError(
            f"{table.source}: no dense rows, so capacities have no unit; add dense runs or fix one: "
            f"--fix '{problem.names[-1]}=1'"
        )
    check_loss(problem, 0.5 * np.sum([q.start for q in problem.parameters], axis=1))
    flat = Penalty(np.zeros(len(lower)), np.zeros(len(lower)))
    start = starting_points(problem, lower, upper, count=settings.starts, seed=settings.seed)
    shared = shared_levels(table, settings.shared)
    draft = Fit(problem, table, settings, constraints, lower, upper, flat, start[0], np.inf, False, 0, start, shared)
    independent, ends = _best(draft, start)
    check_derivatives(problem, independent.z, draft.free)
    result = with_shared_errors(independent, ends)
    if constraints.priors:
        held = penalty(problem, constraints, result.noise)
        result, _ = _best(replace(result, penalty=held), np.vstack([result.z[None], start]))
    return result


def with_shared_errors(result: Fit, ends: np.ndarray) -> Fit:
    """A fit without shared errors and where its starts ended (M, p): what its residuals say of them, and refitted."""
    for _ in range(REFITS):
        active = result.problem.weight > 0
        found = infer(result.shared, result.loss_units, jacobian(result)[:, result.free], active)
        same = np.array_equal(found.ratio, result.shared.ratio)
        result = replace(result, shared=found)
        if same:
            break
        result, ends = _best(result, ends)
    return result


def least_squares(fit: Fit, shared: SharedErrors) -> Fit:
    """The law fitted by least squares with these shared errors, from the optima of `fit`."""
    other = replace(fit, shared=shared, settings=replace(fit.settings, delta=BEYOND))
    return _best(other, np.vstack([fit.z[None], fit.optima]))[0]


def _best(draft: Fit, start: np.ndarray) -> tuple[Fit, np.ndarray]:
    """The draft at its best optimum, and where every start ended (M, p)."""
    solution = draft.solve(draft.batch(start))
    finite = np.where(np.isfinite(solution.objective), solution.objective, np.inf)
    order = np.argsort(finite, kind="stable")
    best = order[0]
    if not np.isfinite(finite[best]):
        raise UserError(f"{draft.law.name}: no start reached a finite objective on {draft.table.source}")
    distinct = [best]
    for i in order[1:]:
        if np.isfinite(finite[i]) and finite[i] > finite[distinct[-1]] * (1 + DISTINCT):
            distinct.append(i)
    found = replace(
        draft,
        z=solution.z[best],
        objective=float(finite[best]),
        converged=bool(solution.converged[best]),
        agreeing=int(np.sum(finite <= finite[best] * (1 + SAME))),
        optima=solution.z[distinct],
    )
    return found, solution.z
