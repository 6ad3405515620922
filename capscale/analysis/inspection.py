"""A fit with all that was looked at to speak of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from capscale.analysis.constraints import Comparison, compare
from capscale.analysis.fit import Fit
from capscale.analysis.profiles import Profile, profiles


@dataclass(frozen=True)
class Inspection:
    """A fit, its profiles by name, and the fit without its fixed numbers and priors, where it has any."""

    fit: Fit
    profiles: Mapping[str, Profile]
    comparison: Comparison | None = None


def inspect(fit: Fit, *, profiled: bool = True) -> Inspection:
    """Looks at a fit; without profiles where only the fixed numbers are of interest."""
    return Inspection(fit, profiles(fit) if profiled else {}, compare(fit))
