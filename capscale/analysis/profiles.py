"""Profile likelihood: the best objective as a function of one number held fixed, every point of it converged.

A profile is only as true as its `inner_fits`: what has not converged there is left out, and the profile says how many
points that is.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from capscale.analysis.calibration import Reference, references
from capscale.analysis.fit import Fit
from capscale.analysis.inner_fits import inner_fits
from capscale.analysis.uncertainty import Interval
from capscale.errors import UserError

LEVEL = 0.95
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


def profiles(fit: Fit) -> dict[str, Profile]:
    """Profile of every fitted number but those with units of N or D, whose values hang on these."""
    return _profiles(fit, _profiled(fit))


def profile(fit: Fit, name: str) -> Profile:
    """Profile of one fitted number; UserError for one that was not fitted, or has a unit of N or D."""
    if name not in _profiled(fit):
        raise UserError(f"no profile of {name!r}; the fitted numbers are {', '.join(_profiled(fit))}")
    return _profiles(fit, [name])[name]


def _profiled(fit: Fit) -> list[str]:
    pairs = zip(fit.problem.names, fit.free, strict=True)
    return [n for n, free in pairs if free and n not in fit.problem.with_units]


def _profiles(fit: Fit, names: list[str]) -> dict[str, Profile]:
    if not names:
        return {}
    noise, known = max(fit.noise, 1e-300), references(fit)
    limits = np.array([reference.limit(LEVEL) for reference in known])
    places = {name: fit.problem.names.index(name) for name in names}
    every = inner_fits(fit, list(places.values()), limits)
    out = {}
    for name, i in places.items():
        found = every.where(every.which == i)
        kept = found.where(found.converged)
        best = min(float(kept.objective.min(initial=np.inf)), fit.objective)
        out[name] = Profile(
            name,
            fit.problem.report(kept.z)[:, i],
            2 * (kept.objective - best) / noise,
            fit.values[name],
            known[i],
            int(np.sum(~found.converged)),
            float(2 * (fit.objective - best) / noise),
        )
    return out
