"""Inner fits of profiles: one coordinate held, the others free, for many values of several coordinates at once.

An inner fit that stops early stands above its neighbours as a spike, and an interval that ends there is the solver's.
So every point is solved from its neighbours' solutions too, from both sides, until no point gets better.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from capscale.analysis.calibration import linear_theory
from capscale.analysis.fit import Fit

BETTER = 1e-4
"""Fall of the statistic that counts as one, over 1 plus the statistic; a picture of a profile shows a hundredth."""
MULTIPLES = (0.3, 0.65, 0.9, 1.1, 1.4, 2.0, 3.2)
"""Where points stand, as shares of the distance at which linear theory expects the limit."""
FARTHER = 4
"""Further points to the bound, geometrically, on a side where none of those is outside the limit."""
BETWEEN = 3
"""Points put between the last one inside the limit and the first one outside, where these are far apart."""
APART = 0.25
"""As a share of the outer one's distance: the signed root of the statistic is straighter than that."""
COMPETING = 25.0
"""Statistic up to which another optimum may be the better one somewhere along a profile: 5 standard deviations."""


class InnerFits(NamedTuple):
    """M inner fits: coordinate `which` (M,) held at `value` (M,), and their solutions; by coordinate, then by value."""

    which: np.ndarray
    value: np.ndarray
    z: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    def sorted(self) -> "InnerFits":
        """By coordinate, then by value."""
        order = np.lexsort((self.value, self.which))
        return InnerFits(*(x[order] for x in self))

    def where(self, keep: np.ndarray) -> "InnerFits":
        """Those that `keep` picks."""
        return InnerFits(*(x[keep] for x in self))


def inner_fits(fit: Fit, coordinates: list[int], limits: np.ndarray) -> InnerFits:
    """Inner fits from the estimate out to beyond the limit of the coordinate's statistic (p,), or to the bound."""
    deviation, trace = linear_theory(fit)
    found = _extended(fit, None, _near(fit, coordinates, deviation * np.sqrt(limits)), trace)
    for more in (_farther, _around_limits):
        found = _extended(fit, found, more(fit, found, limits * fit.noise / 2), trace)
    return found


Points = list[tuple[int, float]]
"""Coordinates, and the values that they are to be held at."""


def _extended(fit: Fit, found: InnerFits | None, points: Points, trace: np.ndarray) -> InnerFits:
    """With more points, and every one solved from its neighbours."""
    if not points and found is not None:
        return found
    noise = max(fit.noise, 1e-300)
    which, value = np.array([i for i, _ in points]), np.array([x for _, x in points])
    value = np.clip(value, fit.lower[which], fit.upper[which])
    extra = _from_optima(fit, which, value, trace, noise)
    both = extra if found is None else InnerFits(*(np.concatenate(p) for p in zip(found, extra, strict=True)))
    return _from_neighbours(fit, both.sorted(), noise)


def _near(fit: Fit, coordinates: list[int], reach: np.ndarray) -> Points:
    """Points about the limit, where linear theory expects it; over the whole box of a number that nothing holds."""
    points = []
    for i in coordinates:
        for bound, sign in ((fit.lower[i], -1), (fit.upper[i], 1)):
            distance = abs(bound - fit.z[i])
            if distance > 1e-9 * (fit.upper[i] - fit.lower[i]):
                step = min(reach[i], distance / MULTIPLES[-1])
                points += [(i, fit.z[i] + sign * m * step) for m in MULTIPLES]
    return points


def _sides(fit: Fit, found: InnerFits, rise: np.ndarray) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Of every coordinate and side: both, distances of the converged points ascending, and which exceed the limit."""
    for i in np.unique(found.which):
        for sign in (-1, 1):
            side = (found.which == i) & (sign * (found.value - fit.z[i]) > 0) & found.converged
            distance = np.abs(found.value[side] - fit.z[i])
            order = np.argsort(distance)
            yield int(i), sign, distance[order], (found.objective[side] - fit.objective)[order] > rise[i]


def _farther(fit: Fit, found: InnerFits, rise: np.ndarray) -> Points:
    points = []
    for i, sign, distance, outside in _sides(fit, found, rise):
        end = abs((fit.upper if sign > 0 else fit.lower)[i] - fit.z[i])
        if len(distance) and not outside.any() and end > 1.01 * distance[-1]:
            points += [(i, fit.z[i] + sign * x) for x in np.geomspace(distance[-1], end, FARTHER + 1)[1:]]
    return points


def _around_limits(fit: Fit, found: InnerFits, rise: np.ndarray) -> Points:
    points = []
    for i, sign, distance, outside in _sides(fit, found, rise):
        if outside.any():
            first = int(np.argmax(outside))
            inner, outer = (distance[first - 1] if first else 0.0), distance[first]
            if outer - inner > APART * outer:
                points += [(i, fit.z[i] + sign * x) for x in np.linspace(inner, outer, BETWEEN + 2)[1:-1]]
    return points


def _solve(fit: Fit, which: np.ndarray, value: np.ndarray, start: np.ndarray, *, warm: bool = False) -> InnerFits:
    """Inner fits from `start` (M, p)."""
    every = np.arange(len(value))
    lower, upper = np.tile(fit.lower, (len(value), 1)), np.tile(fit.upper, (len(value), 1))
    start = start.copy()
    lower[every, which] = upper[every, which] = start[every, which] = value
    solved = fit.solve(fit.batch(start, lower=lower, upper=upper), warm=warm)
    finite = np.isfinite(solved.objective)
    objective = np.where(finite, solved.objective, np.inf)
    return InnerFits(which, value, solved.z, objective, solved.converged & finite)


def _better(one: InnerFits, other: InnerFits) -> InnerFits:
    """At every point the lower objective of two, a converged one before one that is not."""
    take = (other.converged & ~one.converged) | ((other.converged == one.converged) & (other.objective < one.objective))
    return one._replace(
        z=np.where(take[:, None], other.z, one.z),
        objective=np.where(take, other.objective, one.objective),
        converged=one.converged | other.converged,
    )


def _from_optima(fit: Fit, which: np.ndarray, value: np.ndarray, trace: np.ndarray, noise: float) -> InnerFits:
    """Inner fits from where linear theory sees them, and from the next optimum of the fit where it is a near one."""
    start = fit.z + (value - fit.z[which])[:, None] * trace[which]
    found = _solve(fit, which, value, np.clip(start, fit.lower, fit.upper))
    for z in fit.optima[1:2]:
        if 2 * (float(_objective(fit, z[None])[0]) - fit.objective) < COMPETING * noise:
            found = _better(found, _solve(fit, which, value, np.tile(z, (len(value), 1))))
    return found.sorted()


def _from_neighbours(fit: Fit, found: InnerFits, noise: float) -> InnerFits:
    """Inner fits from the solutions on both sides and between them, until none gets better.

    A warm start never ends above the objective at its start, and between two solutions the objective hardly exceeds
    theirs: a point that stood above its neighbours comes down.
    """
    known = [np.full_like(found.z, np.nan)] * 3
    # Good news travels by one point a round: after as many rounds as points it has been everywhere.
    for _ in range(len(found.value)):
        before, starts = found, _starts(fit, found)
        for start, last in zip(starts, known, strict=True):
            promising = _falls(fit, found.objective, _objective(fit, start), noise)
            new = np.any(start != last, axis=1)  # from the same start it would end as it did
            to = np.flatnonzero(new & (promising | ~found.converged))
            if len(to):
                tried = _solve(fit, found.which[to], found.value[to], start[to], warm=True)
                found = _replaced(found, to, tried)
        known = starts
        fell = _falls(fit, before.objective, found.objective, noise)
        if not np.any(fell | (found.converged & ~before.converged)):
            break
    return found


def _falls(fit: Fit, before: np.ndarray, after: np.ndarray, noise: float) -> np.ndarray:
    """Where the objective falls by what counts: far outside the limit a profile need not be as exact (M,)."""
    finite = np.isfinite(after)
    statistic = 2 * np.maximum(np.where(finite, after, 0.0) - fit.objective, 0.0) / noise
    return finite & (2 * (before - np.where(finite, after, 0.0)) > BETTER * noise * (1 + statistic))


def _objective(fit: Fit, z: np.ndarray) -> np.ndarray:
    """The fit's objective at coordinates z (M, p)."""
    s, problem = fit.settings, fit.problem
    predicted = problem.predict(z)
    residuals = np.log(predicted) - np.log(problem.loss) if s.logarithmic else predicted - problem.loss
    size = np.abs(fit.whiten(residuals.T).T)
    huber = np.where(size <= s.delta, 0.5 * size**2, s.delta * (size - 0.5 * s.delta))
    prior = 0.5 * np.sum(fit.penalty.precision * (z - fit.penalty.centre) ** 2, axis=1)
    return huber @ problem.weight + prior


def _starts(fit: Fit, found: InnerFits) -> tuple[np.ndarray, ...]:
    """For every point the solution below it, the one above it, and the one between the two; the fit is a point too."""
    starts = tuple(np.empty_like(found.z) for _ in range(3))
    for i in np.unique(found.which):
        mine = np.flatnonzero(found.which == i)
        value, z = np.append(found.value[mine], fit.z[i]), np.vstack([found.z[mine], fit.z])
        order = np.argsort(value, kind="stable")
        place = np.argsort(order)[: len(mine)]
        below, above = order[np.maximum(place - 1, 0)], order[np.minimum(place + 1, len(order) - 1)]
        width = np.maximum(value[above] - value[below], 1e-300)
        share = np.clip((found.value[mine] - value[below]) / width, 0, 1)[:, None]
        for start, here in zip(starts, (z[below], z[above], z[below] + share * (z[above] - z[below])), strict=True):
            start[mine] = here
            start[mine, i] = found.value[mine]
    return starts


def _replaced(found: InnerFits, at: np.ndarray, tried: InnerFits) -> InnerFits:
    """The points with those at `at` taken from `tried` where it is better."""
    better = _better(found.where(at), tried)
    out = InnerFits(*(x.copy() for x in found))
    for array, new in zip(out, better, strict=True):
        array[at] = new
    return out
