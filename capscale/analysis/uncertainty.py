"""How sure a fit is: intervals, and the bootstrap that gives them. Profiles stand in `profiles`."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from capscale.analysis.fit import Fit
from capscale.errors import UserError


class Interval(NamedTuple):
    """An estimate with its interval; an open end is infinite."""

    estimate: float
    low: float
    high: float


MOST_RESAMPLES = 1_000_000
"""All are solved at once, in memory; the ends of a 95 % interval of so many are known to three digits."""


@dataclass(frozen=True)
class Bootstrap:
    """Refits on reweighted rows: S resamples.

    `z` (S, p) coordinates, `values` (S, p) as reported, `rho` (S, curves). Deviations from the fit are widened
    by sqrt(n / (n - p)), since residuals are smaller than errors by that.
    """

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
        # A and B are reported at their own alpha and beta: their ends come from the draws inside the box.
        inside = reach <= times
        values = self.values[inside]
        ends[0, :2], ends[1, :2] = values[:, :2].min(0), values[:, :2].max(0)
        names = [n for n, f in zip(self.fit.problem.names, free, strict=True) if f]
        columns = [i for i, f in enumerate(free) if f]
        return {n: Interval(self.fit.values[n], *map(float, ends[:, i])) for n, i in zip(names, columns, strict=True)}

    @property
    def rho(self) -> np.ndarray:
        """Capacity of every curve of the table in every resample (S, curves), in the order of `fit.rho`."""
        where = {r.curve: i for i, r in enumerate(self.fit.table.rows)}
        rows = np.array([where[c] for c in self.fit.rho])
        problem = self.fit.problem
        return np.exp(problem.log_rho(self.z)[:, rows])

    def spread(self, name: str) -> float:
        """Half the central 68 % interval: one standard deviation that outliers do not move."""
        low, high = self.interval(name, 0.6827)[1:]
        return (high - low) / 2


def bootstrap(
    fit: Fit, resamples: int = 1000, by: Literal["runs", "sizes"] = "runs", seed: int | None = None
) -> Bootstrap:
    """Refit on rows weighted by standard exponential draws (Rubin's Bayesian bootstrap).

    Unlike drawing rows with replacement this never loses a format or the last dense run of a small table, and
    its large-sample distribution is the same. `by="sizes"` gives all runs of one N one draw: the error that a
    size's own learning rate and seed put into all of its runs. Every resample starts from all optima of the fit.
    """
    if resamples < 2:
        raise UserError(f"bootstrap={resamples}: at least 2 resamples")
    if resamples > MOST_RESAMPLES:
        raise UserError(f"bootstrap={resamples}: at most {MOST_RESAMPLES:,} resamples; a thousand will do")
    random = np.random.default_rng(fit.settings.seed if seed is None else seed)
    units = np.arange(len(fit.table)) if by == "runs" else np.unique(fit.table.column("N"), return_inverse=True)[1]
    draws = random.exponential(size=(resamples, int(units.max()) + 1))
    weight = fit.problem.weight * draws[:, units]
    solutions = [fit.solve(fit.batch(np.broadcast_to(z, (resamples, len(z))), weight=weight)) for z in fit.optima[:3]]
    pick = np.argmin(np.stack([s.objective for s in solutions]), axis=0)
    every = np.arange(resamples)
    z, objective, converged = (np.stack(x)[pick, every] for x in list(zip(*solutions, strict=True))[:3])
    n, p = int((fit.problem.weight > 0).sum()), int(fit.free.sum())
    widen = np.sqrt(n / max(n - p, 1))
    return Bootstrap(fit, np.clip(fit.z + widen * (z - fit.z), fit.lower, fit.upper), objective, converged)
