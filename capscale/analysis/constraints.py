"""Fixed numbers and priors held against the runs: the fit with them beside the fit without, and which of them pulls."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import f as f_distribution

from capscale.analysis.fit import Constraints, Fit, Settings, fit, least_squares
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

    shared_ratio: float | None = None
    """`ratio` by least squares of what runs do not share, where the free fit has errors that they do."""

    @property
    def ratio(self) -> float:
        """RMSE with the constraints over RMSE without; infinite where the free fit meets every run."""
        return self.constrained.rmse / self.free.rmse if self.free.rmse > 0 else float("inf")

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
        """True where the runs deny the constraints, as independent ones and with the errors that they share."""
        return self.ratio > self.limit and not self.allowed

    @property
    def allowed(self) -> bool:
        """True where only errors that runs share let the constraints stand."""
        return self.ratio > self.limit and self.shared_ratio is not None and self.shared_ratio <= self.limit

    @property
    def pulling(self) -> tuple[Release, ...]:
        """The numbers that close at least half of the gap when they alone are freed."""
        return tuple(r for r in self.releases if r.closes >= PULLS)


def compare(constrained: Fit) -> Comparison | None:
    """The fit held against the free one; None without constraints, or where the free fit cannot be made.

    A capacity fixed as the unit of a table without dense runs is no claim that the runs could deny, and stays.
    """
    given = constrained.constraints
    names = [n for n in (*given.fixed, *given.priors) if not _unit(constrained, n)]
    if not names:
        return None
    # Misfit of wrong numbers looks like errors that sizes share: the fits are compared as of independent runs.
    independent = replace(constrained.settings, shared="none")
    held, free = (_refit(constrained, c, independent) for c in (given, without(given, *names)))
    if free is None or held is None:
        return None
    # A number that the free fit has no use for (B on a table of one D) was not held.
    gap = held.rmse - free.rmse
    releases = []
    for name in names:
        alone = _refit(constrained, without(given, name), independent)
        if alone is not None and name in alone.values:
            closes = (held.rmse - alone.rmse) / gap if gap > 0 else 0.0
            releases.append(Release(name, alone.values[name], alone.rmse, float(np.clip(closes, 0, 1))))
    ordered = tuple(sorted(releases, key=lambda r: -r.closes))
    found = Comparison(held, free, ordered, _with_shared_errors(constrained, without(given, *names)))
    return found if int(free.free.sum()) > int(held.free.sum()) or given.priors else None


def _with_shared_errors(constrained: Fit, fewer: Constraints) -> float | None:
    """The ratio by least squares of whitened residuals, which an F test is about; None where runs share no errors."""
    free = _refit(constrained, fewer, constrained.settings)
    if free is None or not np.any(free.shared.ratio > 0):
        return None
    with_all, without_them = (
        float(np.sqrt(np.mean(least_squares(f, free.shared).whitened ** 2))) for f in (constrained, free)
    )
    return with_all / without_them if without_them > 0 else float("inf")


def without(given: Constraints, *names: str) -> Constraints:
    """The constraints less those of `names`."""
    fixed = {n: v for n, v in given.fixed.items() if n not in names}
    return Constraints(fixed, {n: v for n, v in given.priors.items() if n not in names})


def _unit(constrained: Fit, name: str) -> bool:
    return name.startswith("rho[") and "dense" not in constrained.table.curves


def _refit(constrained: Fit, constraints: Constraints, settings: Settings) -> Fit | None:
    """None where the rows are too few for the numbers that would be free."""
    try:
        return fit(constrained.table, constrained.law, settings, constraints)
    except UserError:
        return None
