"""A fit with all that was looked at to speak of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from capscale.analysis.constraints import Comparison, compare
from capscale.analysis.fit import Fit
from capscale.analysis.measure import Capacities, from_joint_fit, why_no_size
from capscale.analysis.misspecification import Contradiction, contradiction
from capscale.analysis.outliers import Outliers, outliers
from capscale.analysis.profiles import Profile, profiles
from capscale.analysis.uncertainty import Bootstrap, Interval


@dataclass(frozen=True)
class Inspection:
    """A fit, its profiles by name, the rows that pull it, and the fit without its fixed numbers, where it has any."""

    fit: Fit
    profiles: Mapping[str, Profile]
    outlying: Outliers
    comparison: Comparison | None = None
    capacities: Capacities | None = None
    """As far as resamples were looked at."""
    resampled: Mapping[str, Interval] = field(default_factory=dict)
    """95 % intervals of the bootstrap by name, where resamples were looked at."""

    def interval(self, name: str) -> Interval:
        """Interval that the profile of a number and its resamples leave open: profiles can be sharp where few runs tell
        exponents apart by the shape of the law alone, resamples where the objective is flat."""
        known = [self.profiles[name].interval()] if name in self.profiles else []
        known += [self.resampled[name]] if name in self.resampled else []
        return Interval(known[0].estimate, min(i.low for i in known), max(i.high for i in known))

    @cached_property
    def contradiction(self) -> Contradiction | None:
        """Objection of the runs to the law itself, those that pull left out; None where there is none.

        Fixed numbers that the runs contradict are set free for it: those are no fault of the law.
        """
        fit = self.outlying.without
        if self.comparison is not None and self.comparison.contradicted:
            fit = replace(self.comparison.free, shared=self.fit.shared.none())
        return contradiction(fit)

    @property
    def not_measured(self) -> dict[str, str]:
        """Formats whose capacity the fit does not measure, with the reason, as far as resamples were looked at."""
        found = self.capacities
        return {c: why for c, why in zip(found.curves, found.why_not, strict=True) if why} if found else {}

    @property
    def rho(self) -> dict[str, Interval]:
        """Capacities with their 95 % intervals, as far as resamples were looked at."""
        found = self.capacities
        if found is None:
            return {}
        ends = np.quantile(found.draws, [0.025, 0.975], axis=0).T if len(found.curves) else np.empty((0, 2))
        triples = zip(found.curves, found.rho, ends, strict=True)
        return {c: Interval(float(rho), float(low), float(high)) for c, rho, (low, high) in triples}

    @property
    def not_told(self) -> dict[str, str]:
        """Numbers of the law that the design of the table says nothing about, with the reason."""
        reason = why_no_size(self.fit)
        if not reason:
            return {}
        # Losses of one size are met by E and B D^-beta alone, whatever these are.
        kept = ("B", "beta", *self.fit.constraints.fixed)
        return {name: reason for name in self.fit.values if name not in kept}


def inspect(fit: Fit, *, profiled: bool = True, draws: Bootstrap | None = None) -> Inspection:
    """Looks at a fit; without profiles where only the given numbers are of interest, with `draws` at capacities too."""
    found = from_joint_fit(draws) if draws is not None else None
    intervals = {n: draws.interval(n) for n in fit.values} if draws is not None else {}
    return Inspection(fit, profiles(fit) if profiled else {}, outliers(fit), compare(fit), found, intervals)
