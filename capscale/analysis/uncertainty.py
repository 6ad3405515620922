"""How sure a fit is: intervals, and the bootstrap that gives them. Profiles stand in `profiles`."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from capscale.analysis.arrays import curve_of
from capscale.analysis.conditioning import flat_directions
from capscale.analysis.fit import Fit
from capscale.analysis.solver import Solution
from capscale.analysis.starts import starting_points
from capscale.errors import UserError


class Interval(NamedTuple):
    """An estimate with its interval; an open end is infinite."""

    estimate: float
    low: float
    high: float


MOST_RESAMPLES = 1_000_000
"""All are solved at once, in memory; the ends of a 95 % interval of so many are known to three digits."""
COMPETING = 25.0
"""Statistic, 2 (objective - optimum) / tau, up to which another optimum may be the best one of a resample: 5 standard
deviations."""
EQUAL = 0.05
"""The same between two solutions of a resample that count as equally good: 0.2 standard deviations."""
LONGEST = 25.0
"""Factor of deviations that is drawn at most: the 97.5 % quantile of Student's t with one degree of freedom is 12.7."""


@dataclass(frozen=True)
class Bootstrap:
    """Refits on reweighted rows: S resamples with coordinates `z` (S, p)."""

    fit: Fit
    z: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Reported numbers of every resample (S, p)."""
        return self.fit.problem.report(self.z)

    def interval(self, name: str, level: float = 0.95) -> Interval:
        """Percentile interval of a reported number, or of `rho[CURVE]`."""
        if name in self.fit.problem.names:
            draws = self.values[:, self.fit.problem.names.index(name)]
            estimate = self.fit.values[name]
        else:
            curve = name.removeprefix("rho[").removesuffix("]")
            if curve not in self.fit.rho:
                raise UserError(f"{name!r} is neither a fitted number nor a format of this table")
            draws, estimate = self.rho[:, list(self.fit.rho).index(curve)], self.fit.rho[curve]
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return Interval(estimate, float(low), float(high))

    def simultaneous(self, level: float = 0.95) -> dict[str, Interval]:
        """Intervals that hold for all fitted numbers at once: widened equally until `level` of resamples are inside.

        Widths are in each number's own bootstrap standard deviations, to either side of the fit.
        """
        free = self.fit.free
        centre = self.fit.z[free]
        below, above = (np.sqrt(np.mean(np.minimum(s * (self.z[:, free] - centre), 0) ** 2, 0) * 2) for s in (1, -1))
        deviation = np.where(self.z[:, free] < centre, below, above)
        reach = np.max(np.abs(self.z[:, free] - centre) / np.maximum(deviation, 1e-300), axis=1)
        times = float(np.quantile(reach, level))
        lows, highs = self.fit.z.copy(), self.fit.z.copy()
        lows[free], highs[free] = centre - times * below, centre + times * above
        ends = self.fit.problem.report(np.stack([lows, highs]))
        # A and B are reported at their own alpha and beta, and so is what else has units: their ends come from the
        # draws inside the box.
        inside = reach <= times
        values = self.values[inside]
        units = [i for i, n in enumerate(self.fit.problem.names) if n in self.fit.problem.with_units]
        ends[0, units], ends[1, units] = values[:, units].min(0), values[:, units].max(0)
        names = [n for n, f in zip(self.fit.problem.names, free, strict=True) if f]
        columns = [i for i, f in enumerate(free) if f]
        return {n: Interval(self.fit.values[n], *map(float, ends[:, i])) for n, i in zip(names, columns, strict=True)}

    @cached_property
    def rho(self) -> np.ndarray:
        """Capacity of every curve of the table in every resample (S, curves), in the order of `fit.rho`."""
        where = {curve_of(self.fit.law, r): i for i, r in enumerate(self.fit.table.rows)}
        rows = np.array([where[c] for c in self.fit.rho], np.int64)
        problem = self.fit.problem
        return np.exp(problem.log_rho(self.z)[:, rows])

    def spread(self, name: str) -> float:
        """Half the central 68 % interval: one standard deviation that outliers do not move."""
        low, high = self.interval(name, 0.6827)[1:]
        return (high - low) / 2


def bootstrap(fit: Fit, resamples: int = 1000, seed: int | None = None) -> Bootstrap:
    """Refit on rows weighted by standard exponential draws (Rubin's Bayesian bootstrap).

    Unlike drawing rows with replacement this never loses a format or the last dense run of a small table, and
    its large-sample distribution is the same. The checkpoints of a run get one draw. Every resample has variances of
    shared errors of its own, drawn from their posterior, and whitens by them. Residuals are smaller than errors by
    sqrt((n - p) / n), and their deviation is known to n - p degrees of freedom only: those of a resample are widened by
    sqrt(n / chi2), chi2 drawn with n - p degrees of freedom, before it is fitted.

    Where the objective is flat every resample starts from a point of its own as well, and ends there unless that is
    worse: a refit that starts at the optimum would stay beside it, in a sharp interval. Such a point is a start as
    `fit` draws them, not the optimum, which may lie at either end of the valley by chance of rounding, and a step along
    the flat directions, which may lead beyond where fits start.
    """
    if resamples < 2:
        raise UserError(f"bootstrap={resamples}: at least 2 resamples")
    if resamples > MOST_RESAMPLES:
        raise UserError(f"bootstrap={resamples}: at most {MOST_RESAMPLES:,} resamples; a thousand will do")
    random = np.random.default_rng(fit.settings.seed if seed is None else seed)
    _, units = np.unique(fit.shared.unit, return_inverse=True)
    weight = fit.problem.weight * random.exponential(size=(resamples, int(units.max()) + 1))[:, units]
    ratio = fit.shared.draw(random, resamples)
    n, p = len(np.unique(units[fit.problem.weight > 0])), int(fit.free.sum())
    widen = np.minimum(np.sqrt(max(n, p + 1) / random.chisquare(fit.freedom, resamples)), LONGEST)
    change = {"weight": weight, "ratio": ratio, "target": _widened(fit, widen)}
    noise = max(fit.noise, 1e-300)
    found = fit.solve(fit.batch(np.tile(fit.z, (resamples, 1)), **change))
    for z in fit.optima[1:3]:
        if 2 * (_objective(fit, z) - fit.objective) < COMPETING * noise:
            other = fit.solve(fit.batch(np.tile(z, (resamples, 1)), **change))
            found = _chosen(found, other, other.objective < found.objective)
    flat = flat_directions(fit)
    if len(flat):
        seed = int(random.integers(2**32))
        apart = starting_points(fit.problem, fit.lower, fit.upper, count=resamples, seed=seed)
        apart += random.normal(size=(resamples, len(flat))) @ flat
        other = fit.solve(fit.batch(np.clip(apart, fit.lower, fit.upper), **change))
        found = _chosen(found, other, 2 * (other.objective - found.objective) < EQUAL * noise * widen**2)
    return Bootstrap(fit, found.z, found.objective, found.converged)


def _widened(fit: Fit, widen: np.ndarray) -> np.ndarray:
    """Targets whose residuals are `widen` (S,) times those of the fit (S, R)."""
    step = widen[:, None] * fit.loss_units
    return fit.predicted * np.exp(step) if fit.settings.logarithmic else fit.predicted + step


def _objective(fit: Fit, z: np.ndarray) -> float:
    return float(fit.solve(fit.batch(z[None]), warm=True).objective[0])


def _chosen(one: Solution, other: Solution, take: np.ndarray) -> Solution:
    """The solutions of `other` where `take` says so."""
    return Solution(*(np.where(take.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(one, other, strict=True)))
