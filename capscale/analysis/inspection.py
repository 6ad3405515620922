"""A fit with all that was looked at to speak of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from capscale.analysis.constraints import Comparison, compare
from capscale.analysis.fit import Fit
from capscale.analysis.measure import from_joint_fit
from capscale.analysis.profiles import Profile, profiles
from capscale.analysis.uncertainty import Bootstrap, Interval


@dataclass(frozen=True)
class Inspection:
    """A fit, its profiles by name, and the fit without its fixed numbers and priors, where it has any."""

    fit: Fit
    profiles: Mapping[str, Profile]
    comparison: Comparison | None = None
    not_measured: Mapping[str, str] = field(default_factory=dict)
    """Formats whose capacity the fit does not measure, with the reason, as far as resamples were looked at."""
    resampled: Mapping[str, Interval] = field(default_factory=dict)
    """95 % intervals of the bootstrap by name, where resamples were looked at."""

    def interval(self, name: str) -> Interval:
        """What the profile of a number and its resamples leave open together: profiles can be sharp where few runs tell
        exponents apart by the shape of the law alone, resamples where the objective is flat."""
        known = [self.profiles[name].interval()] if name in self.profiles else []
        known += [self.resampled[name]] if name in self.resampled else []
        return Interval(known[0].estimate, min(i.low for i in known), max(i.high for i in known))


def inspect(fit: Fit, *, profiled: bool = True, draws: Bootstrap | None = None) -> Inspection:
    """Looks at a fit; without profiles where only the given numbers are of interest, with `draws` at capacities too."""
    found = from_joint_fit(draws) if draws is not None else None
    why_not = {c: why for c, why in zip(found.curves, found.why_not, strict=True) if why} if found else {}
    intervals = {n: draws.interval(n) for n in fit.values} if draws is not None else {}
    return Inspection(fit, profiles(fit) if profiled else {}, compare(fit), why_not, intervals)
