"""Which numbers of a fit are to be quoted, and which not: not identified, not measured, or of a law that is wrong."""

import numpy as np

from capscale.analysis.fit import Fit
from capscale.analysis.inspection import Inspection

WIDE_FACTOR = 2.0
"""An exponent whose 95 % interval spans more than this factor is not identified."""
WIDE_LOSS = 0.2
"""Nor is E when its interval is wider than this share of the smallest loss."""
WIDE_RHO = 0.25
"""Nor a capacity whose interval is wider than this."""
CONSTANT_RATIO = 1.15
"""D/N within this factor counts as one ratio."""


def ratio_words(fit: Fit) -> str:
    """The table's tokens per parameter, in words."""
    ratio = fit.table.column("D") / fit.table.column("N")
    if one_ratio(fit):
        ends = [f"{end:.3g}" for end in (ratio.min(), ratio.max())]
        return f"every D/N is {ends[0]}" if ends[0] == ends[1] else f"every D/N is between {ends[0]} and {ends[1]}"
    return f"D/N runs from {ratio.min():.3g} to {ratio.max():.3g}"


def one_ratio(fit: Fit) -> bool:
    """Whether all runs have about the same tokens per parameter."""
    ratio = fit.table.column("D") / fit.table.column("N")
    return bool(ratio.max() / ratio.min() <= CONSTANT_RATIO)


def sizes(fit: Fit) -> int:
    """How many model sizes there are."""
    return len(np.unique(fit.table.column("N")))


def loose(of: Inspection, name: str) -> bool:
    """Whether profile and resamples of a number leave it open."""
    low, high = of.interval(name)[1:]
    if not (np.isfinite(low) and np.isfinite(high)):
        return True
    if name == "E":
        return low <= 0 or high - low > WIDE_LOSS * float(of.fit.problem.loss.min())
    if name.startswith("rho["):
        return high - low > WIDE_RHO
    return high / max(low, 1e-300) > WIDE_FACTOR


def not_identified(of: Inspection) -> set[str]:
    """Numbers and capacities, as `rho[FORMAT]`, that the runs leave open or the design does not tell."""
    found = {name for name in of.profiles if loose(of, name)} | set(of.fit.bounds_hit) | set(of.not_told)
    found |= {f"rho[{curve}]" for curve in of.not_measured}
    if of.fit.problem.has_data_term and one_ratio(of.fit):
        found |= {"alpha", "beta", "E"}
    return found | ({"alpha", "E"} if sizes(of.fit) == 2 else set())


def of_a_wrong_law(of: Inspection) -> set[str]:
    """Numbers of a law that the runs contradict; its capacities compare formats with dense runs, and still stand."""
    if of.contradiction is None and not of.outlying.law_is_wrong:
        return set()
    return {n for n in of.fit.values if not n.startswith("rho[") and n not in of.fit.constraints.fixed}


def refused(of: Inspection) -> set[str]:
    """All whose intervals are not to be quoted: the sentences of `fits` say why."""
    return not_identified(of) | of_a_wrong_law(of)
