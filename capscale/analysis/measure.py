"""Capacities of a table with their errors, and a form of rho(GMSE) through them.

Two ways to a capacity. "dense curve" reads each compressed run's dense-equivalent size off the dense losses at
equal D and averages its logarithm over the runs: no alpha, no E. "joint fit" is the decoupled law, for tables
whose dense runs do not cover the compressed losses.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import norm

from capscale.analysis.conditioning import column_norms, jacobian
from capscale.analysis.equivalence import equivalents, rising
from capscale.analysis.fit import Fit
from capscale.analysis.law import RHO_BOUNDS
from capscale.analysis.operands import parts_of
from capscale.analysis.table import Row, Table
from capscale.analysis.uncertainty import Bootstrap
from capscale.capacity import Capacity, Factor, Form

LEAST_DENSE_SIZES = 4
"""Dense sizes below which their interpolation is not trusted."""
FARTHEST = 1.6
"""Factor by which a dense-equivalent size may lie beyond the dense sizes."""
REFITS = 300
"""Resamples that the form is refitted to."""
ON_BOUND = 1e-3
"""A capacity this near its bound, as a share, stands on it."""
SPAN = 15.0
"""Between the ends of its 95 % interval, from which a capacity is not measured: that of int8 is 6 times int1's."""
FLAT = float(np.log(SPAN)) / (2 * 1.96)
"""The same as a standard deviation of log rho."""
STEP = 1e-6
"""Of central differences, in coordinates of the fit."""


@dataclass(frozen=True)
class Capacities:
    """rho of every compressed format: estimates (C,) and resamples (S, C)."""

    method: str
    curves: tuple[str, ...]
    rho: np.ndarray
    draws: np.ndarray
    why_not: tuple[str, ...]
    """Of every format: why its number is not measured, empty where it is."""

    @property
    def measured(self) -> np.ndarray:
        """Which formats are measured (C,)."""
        return np.array([not why for why in self.why_not], bool)


def none_measured(curves: Sequence[str], why: str) -> Capacities:
    """Formats of a table that no capacity can be had from."""
    nothing = np.full(len(curves), np.nan)
    return Capacities("none", tuple(curves), nothing, nothing[None], (why,) * len(curves))


def from_joint_fit(draws: Bootstrap) -> Capacities:
    """Capacities of a law fitted to losses. One at a bound, or with an interval that ends on one, is not measured.

    A format of one run is met exactly in every resample, whatever that run's error; its draws are widened to the
    deviation of linear theory, in which it has the error of the others.
    """
    fit = draws.fit
    held = unit_of(fit)
    names = [c for c in fit.rho if c != held]
    columns = [list(fit.rho).index(c) for c in names]
    every, flat = draws.rho[:, columns], _deviations(fit)
    lone = {c for c, runs in Counter(r.curve for r in fit.table.rows).items() if runs == 1 and c in names}
    for c in sorted(lone):
        k, deviation = names.index(c), flat[c] * _own_error(fit, lone)
        if deviation <= FLAT:
            random = np.random.default_rng([fit.settings.seed, k])
            every[:, k] = _widened(every[:, k], fit.rho[c], deviation, random)
    reason = why_no_size(fit)
    why_not = tuple(reason or _why_not(fit.rho[c], every[:, k], flat[c]) for k, c in enumerate(names))
    return Capacities("joint fit", tuple(names), np.array([fit.rho[c] for c in names]), every, why_not)


def _own_error(fit: Fit, lone: set[str]) -> float:
    """Error of a single run over the objective's scale, at least 1: many runs average theirs, a lone one does not."""
    left = np.abs([r for r, row in zip(fit.residuals, fit.table.rows, strict=True) if row.curve not in lone])
    spent = int(fit.free.sum()) - len(lone)
    deviation = np.median(left) / norm.ppf(0.75) * np.sqrt(len(left) / max(len(left) - spent, 1))
    return max(1.0, float(deviation / max(fit.noise**0.5, 1e-9)))


def _widened(draws: np.ndarray, rho: float, deviation: float, random: np.random.Generator) -> np.ndarray:
    """The draws with normal ones of their own added to their logarithms, up to `deviation` in all."""
    missing = np.sqrt(max(deviation**2 - np.var(np.log(draws / rho)), 0.0))
    return np.clip(draws * np.exp(random.normal(0.0, missing, len(draws))), *RHO_BOUNDS)


def unit_of(fit: Fit) -> str:
    """The format whose capacity is 1 by definition: dense, or the one held at 1 where there are no dense rows."""
    return next((c for c in fit.table.curves if fit.constraints.fixed.get(f"rho[{c}]") == 1.0), "dense")


def why_no_size(fit: Fit) -> str:
    """Why the runs do not tell a loss from a size, so that nothing of capacity is measured; empty where they do."""
    N, given = fit.table.column("N"), {*fit.constraints.fixed, *fit.constraints.priors}
    if np.ptp(N) > 0 or ("alpha" in given and given & {"A", "E"}):
        return ""
    return f"every run has N = {N[0]:.4g}, so that no run says what another size would be worth"


def _why_not(rho: float, draws: np.ndarray, deviation: float) -> str:
    low, high = np.quantile(draws, [0.025, 0.975])
    for bound in RHO_BOUNDS:
        if abs(np.log(rho / bound)) < ON_BOUND:
            return f"it ended on the bound of the search, {bound:g}"
    for bound, end in zip(RHO_BOUNDS, (low, high), strict=True):
        if abs(np.log(end / bound)) < ON_BOUND:
            return f"its 95 % interval reaches the bound of the search, {bound:g}"
    if high > SPAN * low:
        return f"its 95 % interval, {low:.2g} to {high:.2g}, spans more than a factor {SPAN:g}"
    if deviation > FLAT:
        return "these runs do not tell it from the other numbers of the law"
    return ""


def _deviations(fit: Fit) -> dict[str, float]:
    """Standard deviation of log rho of every format when all numbers are free, those at a bound included.

    By linear theory: resamples that start from one optimum stay beside it where the objective is flat.
    """
    J = fit.whiten(jacobian(fit)[:, fit.free]) * np.sqrt(fit.problem.weight)[:, None]
    norms = column_norms(J)
    _, singular, V = np.linalg.svd(J / norms, full_matrices=False)
    slopes = np.stack([(_log_rhos(fit, s) - _log_rhos(fit, -s)) / 2 for s in np.eye(len(fit.z))[fit.free]], 1) / STEP
    spread = np.linalg.norm((slopes / norms) @ V.T / np.maximum(singular, 1e-12 * singular[0] + 1e-150), axis=1)
    # The objective's own scale, which a format that learnt nothing does not inflate.
    deviation = max(fit.noise**0.5, 1e-9) * spread
    by_curve = {r.curve: float(d) for r, d in zip(fit.table.rows, deviation, strict=True)}
    return {c: by_curve[c] for c in fit.rho}


def _log_rhos(fit: Fit, direction: np.ndarray) -> np.ndarray:
    return fit.problem.log_rho(fit.z + STEP * direction)


def why_no_dense_curve(table: Table) -> str:
    """Why capacities cannot be read off the dense curve of this table; empty where they can."""
    if all(r.is_dense for r in table.rows):
        return "no run is compressed"
    worse = rising(table)
    if worse:
        D, sizes = next(iter(worse.items()))
        named = ", ".join(f"{N:.4g}" for N in sizes)
        return f"the dense loss does not fall with size at D = {D:.4g}, where N = {named}: check the learning rates"
    points = equivalents(table)
    sizes = sorted({r.N for r in table.rows if r.is_dense})
    if len(sizes) < LEAST_DENSE_SIZES:
        return f"dense sizes here: {len(sizes)}, and their curve takes {LEAST_DENSE_SIZES}"
    formats = [c for c in table.curves if c != "dense"]
    few = sum(sum(p.curve == c for p in points) < 2 for c in formats)
    if few:
        return f"{few} of {len(formats)} formats have fewer than 2 runs with 3 dense sizes at equal D"
    beyond = [p.run for p in points if not sizes[0] / FARTHEST <= p.size <= sizes[-1] * FARTHEST]
    if beyond:
        return f"{len(beyond)} of {len(points)} runs are worth sizes beyond {FARTHEST:g} times those of the dense runs"
    return ""


def from_dense_curve(table: Table, resamples: int, seed: int) -> Capacities | None:
    """Capacities read off the dense curve; None where the dense runs do not cover the compressed losses.

    A resample weighs a format's runs by exponential draws, and moves every dense loss by a normal draw whose deviation
    is that of what the formats of one size share: their mean departure from one capacity per format. Deviations are
    widened by sqrt(n / (n - 1)) for the n runs of a format.
    """
    if why_no_dense_curve(table):
        return None
    points = equivalents(table)
    names = tuple(c for c in table.curves if c != "dense")
    counts = np.array([sum(p.curve == c for p in points) for c in names])
    member = np.array([[p.curve == c for p in points] for c in names], float)

    def means(log_rho: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return (member * weight) @ log_rho / (member @ weight)

    log_rho = np.log([p.rho for p in points])
    centre = means(log_rho, np.ones(len(points)))
    slope = np.array([p.slope for p in points])
    off = slope * (log_rho - member.T @ centre)
    shared = [np.mean([o for o, p in zip(off, points, strict=True) if p.N == N]) for N in sorted({p.N for p in points})]
    scatter = float(np.sqrt(np.sum(np.square(shared)) / max(len(shared) - 1, 1)))
    random = np.random.default_rng(seed)
    widen = np.sqrt(counts / (counts - 1))
    draws = np.empty((resamples, len(names)))
    for k in range(resamples):
        moved = np.log([p.rho for p in equivalents(_moved(table, scatter, random), noisy=True)])
        draws[k] = centre + widen * (means(moved, random.exponential(size=len(points))) - centre)
    why_not = [_why_not(float(rho), d, 0.0) for rho, d in zip(np.exp(centre), np.exp(draws).T, strict=True)]
    return Capacities("dense curve", names, np.exp(centre), np.exp(draws), tuple(why_not))


def _moved(table: Table, scatter: float, random: np.random.Generator) -> Table:
    """The table with a normal draw added to every dense loss."""
    rows = tuple(r._replace(loss=r.loss + random.normal(0, scatter)) if r.is_dense else r for r in table.rows)
    return Table(rows, table.source, table.sha256)


@dataclass(frozen=True)
class CapacityLaw:
    """A form of rho through measured capacities: its numbers, and those of refits to resamples (S, k)."""

    form: Form
    values: np.ndarray
    draws: np.ndarray

    @property
    def capacity(self) -> Capacity:
        """Capacity by the fitted form."""
        return Capacity(
            self.form, tuple((p.name, float(v)) for p, v in zip(self.form.parameters, self.values, strict=True))
        )

    def curve(self, gmse: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """rho of one compressed operand at each GMSE (M,), and the ends of its band."""
        every = np.stack([_with(self.form, d).rho(gmse) for d in self.draws])
        low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return self.capacity.rho(gmse), low, high

    def resampled(self) -> list["CapacityLaw"]:
        """The form with the numbers of every refit."""
        return [CapacityLaw(self.form, d, self.draws[:0]) for d in self.draws]

    def of(self, row: Row) -> float:
        """rho of a representation: the product over its operands."""
        return float(np.exp(_Factors.of([row]).log_rho(self.form, self.values)[0]))


def _with(form: Form, values: np.ndarray) -> Capacity:
    return Capacity(form, tuple((p.name, float(v)) for p, v in zip(form.parameters, values, strict=True)))


@dataclass(frozen=True)
class _Factors:
    """Inputs of a form for representations: their compressed operands (P,), and whose each is."""

    factor: Factor
    owner: np.ndarray
    count: int

    @staticmethod
    def of(rows: Sequence[Row]) -> "_Factors":
        parts = [(i, part) for i, row in enumerate(rows) for part in parts_of(row, product=False)]
        read = [(part.effective_bits, part.storage_bits, part.sparsity) for _, part in parts]
        return _Factors(Factor(*np.array(read).reshape(-1, 3).T), np.array([i for i, _ in parts], int), len(rows))

    def log_rho(self, form: Form, values: np.ndarray) -> np.ndarray:
        """Sum over the operands of every representation."""
        named = {p.name: v for p, v in zip(form.parameters, values, strict=True)}
        return np.bincount(self.owner, form.log_rho(named, self.factor, np.nan), self.count)


def through_points(form: Form, rows: Sequence[Row], rho: np.ndarray, draws: np.ndarray) -> CapacityLaw | None:
    """Least squares of rho (C,) on formats, given by a row each, with one refit for each resample (S, C).

    None with no more formats than the form has numbers: a curve goes through those whatever they are.
    """
    if len(rows) <= len(form.parameters):
        return None
    factors = _Factors.of(rows)
    lower, upper = np.array([p.lower for p in form.parameters]), np.array([p.upper for p in form.parameters])

    def best(rho: np.ndarray, start: np.ndarray) -> np.ndarray:
        def off(values: np.ndarray) -> np.ndarray:
            return np.exp(factors.log_rho(form, values)) - rho

        return least_squares(off, start, bounds=(lower, upper), x_scale=np.abs(start)).x

    starts = [np.array([p.start[0] + s * (p.start[1] - p.start[0]) for p in form.parameters]) for s in (0.2, 0.5, 0.8)]
    tried = [best(rho, s) for s in starts]
    costs = [np.sum((np.exp(factors.log_rho(form, v)) - rho) ** 2) for v in tried]
    values = tried[int(np.argmin(costs))]
    refits = np.array([best(d, values) for d in draws[:REFITS]]).reshape(-1, len(values))
    return CapacityLaw(form, values, refits)
