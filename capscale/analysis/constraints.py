"""Fixed numbers and priors held against the runs: the fit with them beside the fit without, and which of them pulls."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from capscale.analysis.fit import Constraints, Fit, fit, under
from capscale.errors import UserError

LEVEL = 0.95
"""Numbers fixed at their true values exceed the limit in one of twenty tables, as a 95 % interval misses its number."""
PULLS = 0.5
"""Share of the gap to the free fit from which a number, freed alone, is said to pull."""


@dataclass(frozen=True)
class Release:
    """One constraint taken away, the others kept."""

    name: str
    value: float
    """Where the number goes."""
    rmse: float
    closes: float
    """Share of the gap in RMSE between constrained and free fit that this closes."""


@dataclass(frozen=True)
class Comparison:
    """A fit with fixed numbers or priors, and the same law on the same rows without them."""

    constrained: Fit
    free: Fit
    releases: tuple[Release, ...]
    """One for each number that can be freed, the one that pulls most first."""

    @property
    def ratio(self) -> float:
        """RMSE with the constraints over RMSE without, of what runs do not share; infinite over a free fit of 0."""
        free = unshared(self.free)
        return unshared(self.constrained) / free if free > 0 else float("inf")

    @property
    def limit(self) -> float:
        """The ratio that true constraints exceed in one of twenty tables: sqrt(1 + k F / (n - p)), an F test.

        k numbers held, n rows, p numbers in the free fit, F the 95 % quantile of F(k, n - p).
        """
        left = int((self.free.problem.weight > 0).sum()) - int(self.free.free.sum())
        held = int(self.free.free.sum()) - int(self.constrained.free.sum()) + len(self.constrained.constraints.priors)
        return float(np.sqrt(1 + held * f_distribution.ppf(LEVEL, held, left) / left))

    @property
    def contradicted(self) -> bool:
        """True where the runs deny the constraints."""
        return self.ratio > self.limit

    @property
    def pulling(self) -> tuple[Release, ...]:
        """The numbers that close at least half of the gap when they alone are freed."""
        return tuple(r for r in self.releases if r.closes >= PULLS)


def unshared(fit: Fit) -> float:
    """Root mean square of the residuals less what runs share, in units of the objective."""
    return float(np.sqrt(np.mean(fit.whitened**2)))


def compare(constrained: Fit) -> Comparison | None:
    """The fit held against the free one; None without constraints, or where the free fit cannot be made.

    A capacity fixed as the unit of a table without dense runs is no claim that the runs could deny, and stays.
    """
    given = constrained.constraints
    names = [n for n in (*given.fixed, *given.priors) if not _unit(constrained, n)]
    if not names:
        return None
    free = _refit(constrained, without(given, *names))
    if free is None:
        return None
    # Misfit of wrong numbers looks like errors that sizes share: the free fit says what they share.
    constrained = under(constrained, free.shared)
    # A number that the free fit has no use for (B on a table of one D) was not held.
    gap = unshared(constrained) - unshared(free)
    releases = []
    for name in names:
        alone = _refit(constrained, without(given, name))
        if alone is not None and name in alone.values:
            alone = under(alone, free.shared)
            closes = (unshared(constrained) - unshared(alone)) / gap if gap > 0 else 0.0
            releases.append(Release(name, alone.values[name], alone.rmse, float(np.clip(closes, 0, 1))))
    found = Comparison(constrained, free, tuple(sorted(releases, key=lambda r: -r.closes)))
    return found if int(free.free.sum()) > int(constrained.free.sum()) or given.priors else None


def without(given: Constraints, *names: str) -> Constraints:
    """The constraints less those of `names`."""
    fixed = {n: v for n, v in given.fixed.items() if n not in names}
    return Constraints(fixed, {n: v for n, v in given.priors.items() if n not in names})


def _unit(constrained: Fit, name: str) -> bool:
    return name.startswith("rho[") and "dense" not in constrained.table.curves


def _refit(constrained: Fit, constraints: Constraints) -> Fit | None:
    """None where the rows are too few for the numbers that would be free."""
    try:
        return fit(constrained.table, constrained.law, constrained.settings, constraints)
    except UserError:
        return None
