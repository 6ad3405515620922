"""Profile likelihood: the best objective as a function of one number held fixed, every point of it converged.

A profile is only as true as its inner fits: one that stops early stands above its neighbours as a spike, and an
interval that ends there is the solver's. So every point is solved from its neighbours' solutions too, from both sides,
until no point gets better; what has not converged then is left out, and the profile says how many points that is.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from capscale.analysis.calibration import Reference, references
from capscale.analysis.fit import Fit
from capscale.analysis.uncertainty import Interval
from capscale.errors import UserError

LEVEL = 0.95
BETTER = 1e-4
"""Fall of the statistic that counts as one; a picture of a profile shows a hundredth."""
LEAST_POINTS = 6
"""Converged points, the optimum counted, below which a profile says nothing."""


@dataclass(frozen=True)
class Profile:
    """The objective's optimum as a function of one number held fixed, where the inner fits converged."""

    name: str
    value: np.ndarray
    """Reported values, ascending (M,)."""
    statistic: np.ndarray
    """2 (objective - optimum) / tau, not negative (M,)."""
    estimate: float
    reference: Reference
    """How far the statistic of the true value goes by chance."""
    left_out: int = 0
    """Points whose inner fit did not converge from any start."""
    below: float = 0.0
    """How far the statistic went below the fit's own optimum: above 0 the fit had missed the best one."""

    def interval(self, level: float = LEVEL) -> Interval:
        """Where the statistic stays below its limit; infinite towards a side that it never crosses."""
        limit = self.reference.limit(level)
        ends = []
        for side, fallback in ((self.value < self.estimate, -np.inf), (self.value > self.estimate, np.inf)):
            x = np.concatenate([[self.estimate], self.value[side][:: -1 if fallback < 0 else 1]])
            root = np.sqrt(np.concatenate([[0.0], self.statistic[side][:: -1 if fallback < 0 else 1]]))
            outside = np.flatnonzero(root > np.sqrt(limit))
            if len(outside) == 0:
                ends.append(fallback)
                continue
            k = outside[0]
            share = (np.sqrt(limit) - root[k - 1]) / (root[k] - root[k - 1])
            ends.append(float(x[k - 1] + share * (x[k] - x[k - 1])))
        return Interval(self.estimate, *ends)

    def curve(self, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """The profile as a smooth line through its points: its signed root, nearly straight, is interpolated."""
        x = np.append(self.value, self.estimate)
        root = np.append(np.sign(self.value - self.estimate) * np.sqrt(self.statistic), 0.0)
        x, first = np.unique(x, return_index=True)
        grid = np.unique(np.concatenate([np.linspace(x[0], x[-1], points), x]))
        return grid, PchipInterpolator(x, root[first])(grid) ** 2


class _Points(NamedTuple):
    """Inner fits along one coordinate: its value (M,), and their solutions (M, p)."""

    value: np.ndarray
    z: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    def sorted(self) -> "_Points":
        """By value."""
        order = np.argsort(self.value, kind="stable")
        return _Points(*(x[order] for x in self))

    def extended(self, other: "_Points") -> "_Points":
        """Both, by value."""
        return _Points(*(np.concatenate(pair) for pair in zip(self, other, strict=True))).sorted()


def profiles(of: Fit) -> dict[str, Profile]:
    """Profile of every fitted number but A and B, whose values hang on the units of N and D."""
    pairs = zip(of.problem.names, of.free, strict=True)
    return {n: profile(of, n) for n, free in pairs if free and n not in of.problem.with_units}


def profile(fit: Fit, name: str, points: int = 24) -> Profile:
    """Profile of a fitted number (not A or B, whose value hangs on the units).

    Points go out from the estimate to both bounds, geometrically, then twice more where the 95 % limit is crossed.
    Raises UserError for a number that was not fitted.
    """
    names = fit.problem.names
    if name not in names or name in fit.problem.with_units or not fit.free[names.index(name)]:
        free = [n for n, f in zip(names, fit.free, strict=True) if f and n not in fit.problem.with_units]
        raise UserError(f"no profile of {name!r}; the fitted numbers are {', '.join(free)}")
    i = names.index(name)
    centre, low, high = fit.z[i], fit.lower[i], fit.upper[i]
    noise = max(fit.noise, 1e-300)
    half = points // 2
    reach = np.geomspace(1e-3, 1.0, half)
    reference = references(fit)[i]
    values = np.concatenate([centre - (centre - low) * reach[::-1], centre + (high - centre) * reach])
    found = _from_neighbours(fit, i, _from_optima(fit, i, values[values != centre]), noise)
    for _ in range(2):
        rise = reference.limit(LEVEL) * noise / 2
        extra = _around_limit(found.value - centre, found.objective - fit.objective - rise, half) + centre
        if len(extra):
            found = _from_neighbours(fit, i, found.extended(_from_optima(fit, i, extra)), noise)
    kept = _Points(*(x[found.converged] for x in found))
    best = min(float(kept.objective.min(initial=np.inf)), fit.objective)
    reported = fit.problem.report(kept.z)[:, i]
    statistic = 2 * (kept.objective - best) / noise
    below = 2 * (fit.objective - best) / noise
    return Profile(name, reported, statistic, fit.values[name], reference, int(np.sum(~found.converged)), float(below))


def _solve(fit: Fit, i: int, values: np.ndarray, start: np.ndarray, *, warm: bool = False) -> _Points:
    """Inner fits with coordinate i held at `values` (M,), from `start` (M, p)."""
    lower, upper = np.tile(fit.lower, (len(values), 1)), np.tile(fit.upper, (len(values), 1))
    start = start.copy()
    lower[:, i] = upper[:, i] = start[:, i] = values
    solved = fit.solve(fit.batch(start, lower=lower, upper=upper), warm=warm)
    finite = np.isfinite(solved.objective)
    return _Points(values, solved.z, np.where(finite, solved.objective, np.inf), solved.converged & finite)


def _better(one: _Points, other: _Points) -> _Points:
    """At every value the lower objective of two, a converged one before one that is not."""
    take = (other.converged & ~one.converged) | ((other.converged == one.converged) & (other.objective < one.objective))
    return _Points(
        one.value,
        np.where(take[:, None], other.z, one.z),
        np.where(take, other.objective, one.objective),
        one.converged | other.converged,
    )


def _from_optima(fit: Fit, i: int, values: np.ndarray) -> _Points:
    """Inner fits from the optima that the fit itself found."""
    found = None
    for z in fit.optima[:2]:
        solved = _solve(fit, i, values, np.tile(z, (len(values), 1)))
        found = solved if found is None else _better(found, solved)
    assert found is not None
    return found.sorted()


def _from_neighbours(fit: Fit, i: int, found: _Points, noise: float) -> _Points:
    """Inner fits from the solutions on both sides and between them, until none gets better.

    A warm start never ends above the objective at its start, and between two solutions the objective hardly exceeds
    theirs: a point that stood above its neighbours comes down.
    """
    count = len(found.value)
    every = np.arange(count)
    found = _replaced(found, every, _solve(fit, i, found.value, _starts(fit, i, found)[2], warm=True))
    # Good news travels by one point a round: after as many rounds as points it has been everywhere.
    for _ in range(count):
        before = found
        for start in _starts(fit, i, found):
            promising = 2 * (found.objective - _objective(fit, start)) > BETTER * noise
            to = np.flatnonzero(promising | ~found.converged)
            if len(to):
                found = _replaced(found, to, _solve(fit, i, found.value[to], start[to], warm=True))
        gain = np.where(np.isfinite(before.objective), before.objective - found.objective, np.inf)
        if not np.any((2 * gain > BETTER * noise) | (found.converged & ~before.converged)):
            break
    return found


def _objective(fit: Fit, z: np.ndarray) -> np.ndarray:
    """The fit's objective at coordinates z (M, p)."""
    s, problem = fit.settings, fit.problem
    predicted = problem.predict(z)
    residuals = np.log(predicted) - np.log(problem.loss) if s.logarithmic else predicted - problem.loss
    size = np.abs(fit.whiten(residuals.T).T)
    huber = np.where(size <= s.delta, 0.5 * size**2, s.delta * (size - 0.5 * s.delta))
    prior = 0.5 * np.sum(fit.penalty.precision * (z - fit.penalty.centre) ** 2, axis=1)
    return huber @ problem.weight + prior


def _starts(fit: Fit, i: int, found: _Points) -> tuple[np.ndarray, ...]:
    """For every point the solution below it, the one above it, and the one between the two; the fit is a point too."""
    value, z = np.append(found.value, fit.z[i]), np.vstack([found.z, fit.z])
    order = np.argsort(value, kind="stable")
    place = np.argsort(order)[: len(found.value)]
    below, above = order[np.maximum(place - 1, 0)], order[np.minimum(place + 1, len(order) - 1)]
    width = np.maximum(value[above] - value[below], 1e-300)
    share = np.clip((found.value - value[below]) / width, 0, 1)[:, None]
    starts = (z[below], z[above], z[below] + share * (z[above] - z[below]))
    for start in starts:
        start[:, i] = found.value
    return starts


def _replaced(found: _Points, at: np.ndarray, tried: _Points) -> _Points:
    """The points with those at `at` taken from `tried` where it is better."""
    here = _Points(*(x[at] for x in found))
    better = _better(here, tried)
    out = _Points(*(x.copy() for x in found))
    for array, new in zip(out, better, strict=True):
        array[at] = new
    return out


def _around_limit(offset: np.ndarray, excess: np.ndarray, count: int) -> np.ndarray:
    """New offsets from the last point below zero excess to the first one above it, on both sides of zero."""
    extra = []
    for sign in (-1, 1):
        side = sign * offset > 0
        distance = np.abs(offset[side])
        order = np.argsort(distance)
        crossed = np.flatnonzero(excess[side][order] > 0)
        if len(crossed):
            k = crossed[0]
            inner = distance[order][k - 1] if k else 0.0
            outer = distance[order][k]
            extra += [sign * (inner + (outer - inner) * (j + 0.5) / count) for j in range(count)]
    return np.array(extra)
