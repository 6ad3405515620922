"""Warnings before a number of a fit is quoted: the list "Not identified, or to be known"."""

import numpy as np

from capscale.analysis.conditioning import conditioning
from capscale.analysis.fit import Fit
from capscale.analysis.inspection import Inspection
from capscale.analysis.law import RHO_BOUNDS
from capscale.analysis.misspecification import LEVEL
from capscale.analysis.sentences import given, outlying, shared
from capscale.analysis.sentences.quotable import loose, of_a_wrong_law, one_ratio, ratio_words, sizes
from capscale.analysis.sentences.rule import Rule, always, listing, plural

TIED = 0.95
"""Correlation at which two numbers are said to trade off."""
MOSTLY = 0.9
"""Share of residuals outside delta from which the objective is nearly that of least absolute deviations."""
FEW = 3
"""Rows beyond the fitted numbers from which their scatter tells its own size: of 3, to a factor of 2."""
MISSED = 0.1
"""Fall of a profile below the fit's optimum, in its statistic, from which the fit has missed the best one."""


def _spare(fit: Fit) -> int:
    """Rows less fitted numbers."""
    return int((fit.problem.weight > 0).sum() - fit.free.sum())


def _one_budget(of: Inspection) -> str:
    D = of.fit.table.column("D")
    return f"every run in this fit has D = {D[0]:.4g}: B D^-beta cannot be told from E, and is part of it"


def _constant_ratio(of: Inspection) -> str:
    return (
        f"{ratio_words(of.fit)}: N and D move together, so alpha, beta and E are not identified by the design, and "
        "only the shape of the law tells them apart"
    )


def _contradicted(of: Inspection) -> str:
    found = of.contradiction
    assert found is not None
    if found.wider is None:
        told = "their losses bend along log N, log D and log rho as the law does not"
    else:
        law, number, at = found.wider
        told = f"{law.name}, L = {law.formula}, of which it is {number} = {at:g}, describes them better"
    return (
        f"the runs contradict the {of.fit.law.name} law: {told}, by more than chance gives "
        f"(p = {found.chance:.1g}, errors that runs share counted; {LEVEL:g} is the limit){_so(of)}"
    )


def _so(of: Inspection) -> str:
    """Consequence for the numbers of a wrong law."""
    names = [n for n in of.fit.values if n in of_a_wrong_law(of) - set(of.not_told)]
    return f": {listing(names)} are numbers of a law that is wrong here, and not to be quoted" if names else ""


def _missed(of: Inspection) -> str:
    name, deepest = max(of.profiles.items(), key=lambda item: item[1].below)
    return (
        f"the profile of {name} goes {deepest.below:.2g} below the optimum of the fit (1 is a standard deviation): "
        "the starts had missed a better one; try more starts"
    )


def _unidentified(of: Inspection, name: str) -> str:
    estimate, low, high = of.interval(name)
    if np.isfinite(low) and np.isfinite(high):
        return f"{name} is not identified: {low:.3g} to {high:.3g} fit about as well as {estimate:.3g} (95 %)"
    if np.isfinite(low) or np.isfinite(high):
        side = f"anything above {low:.3g}" if np.isfinite(low) else f"anything below {high:.3g}"
        return f"{name} is not identified: {side}, up to its bound, fits about as well as {estimate:.3g}"
    return f"{name} is not identified: every value within its bounds fits about as well as {estimate:.3g}"


def _tied(of: Inspection) -> list[tuple[str, str, float]]:
    """Pairs of numbers that trade off, one of them not identified, with their correlation."""
    wide = {n for n in of.profiles if loose(of, n)}
    about = conditioning(of.fit)
    return [
        (about.names[j], first, float(about.correlation[i, j]))
        for i, first in enumerate(about.names)
        for j in range(i)
        if abs(about.correlation[i, j]) >= TIED
        and {first, about.names[j]} & wide
        and not {first, about.names[j]} & {"A", "B"}
    ]


def _tied_text(of: Inspection, pair: tuple[str, str, float]) -> str:
    N, D = of.fit.table.column("N"), of.fit.table.column("D")
    spans = f"N spans a factor {N.max() / N.min():.3g}, D a factor {D.max() / D.min():.3g}"
    why = ratio_words(of.fit) if one_ratio(of.fit) else spans
    return f"{pair[0]} and {pair[1]} trade off (correlation {pair[2]:+.3f}) on this table: {why}"


def _above_one(of: Inspection) -> list[str]:
    top = RHO_BOUNDS[1] * (1 - 1e-6)
    return [c for c, rho in of.fit.rho.items() if c != "dense" and 1 < rho < top]


def _not_measured(of: Inspection) -> list[tuple[str, list[str]]]:
    """Reasons why capacities are not measured, each with its formats; but for the one that no number is told by."""
    reasons: dict[str, list[str]] = {}
    for curve, why in of.not_measured.items():
        if not of.not_told:
            reasons.setdefault(why, []).append(curve)
    return list(reasons.items())


ABOUT = (*outlying.RULES, *given.RULES)
"""Rules for every command that uses a fit."""
RULES = (
    *outlying.RULES,
    Rule("law contradicted", lambda of: of.contradiction is not None, _contradicted),
    Rule("one budget of tokens", lambda of: not of.fit.problem.has_data_term, _one_budget),
    Rule("constant ratio", lambda of: of.fit.problem.has_data_term and one_ratio(of.fit), _constant_ratio),
    Rule(
        "one size",
        lambda of: len(of.not_told) > 0,
        lambda of: (
            f"every run has N = {of.fit.table.column('N')[0]:.4g}: how the loss falls with N is not in these runs, so "
            "neither alpha nor any capacity is measured by them"
        ),
    ),
    Rule(
        "few to spare",
        lambda of: _spare(of.fit) <= FEW,
        lambda of: (
            f"{len(of.fit.table)} runs for {int(of.fit.free.sum())} fitted numbers: {_spare(of.fit)} left to tell the "
            "error by, so that RMSE says little of it and intervals are rough"
        ),
    ),
    Rule("two sizes", lambda of: sizes(of.fit) == 2, lambda of: "2 model sizes: alpha and E cannot both be measured"),
    *shared.RULES,
    Rule(
        "not converged",
        lambda of: not of.fit.converged,
        lambda of: "the best start did not converge; do not quote this fit",
    ),
    Rule(
        "lonely start",
        lambda of: of.fit.agreeing < 2 and of.fit.settings.starts > 1,
        lambda of: (
            f"only {of.fit.agreeing} of {of.fit.settings.starts} starts reached the best optimum; try more starts"
        ),
    ),
    Rule("missed optimum", lambda of: any(p.below > MISSED for p in of.profiles.values()), _missed),
    Rule(
        "least squares",
        lambda of: of.fit.huber_share == 0,
        lambda of: (
            f"no residual exceeds delta = {of.fit.settings.delta:g}: the Huber threshold never acts, this is least "
            "squares"
        ),
    ),
    Rule(
        "least absolute deviations",
        lambda of: of.fit.huber_share > MOSTLY,
        lambda of: (
            f"{of.fit.huber_share:.0%} of residuals exceed delta = {of.fit.settings.delta:g}: near least absolute "
            "deviations"
        ),
    ),
    *given.RULES,
    Rule(
        "capacity not measured",
        always,
        lambda of, item: f"rho of {listing(item[1])} is not measured: {item[0]}",
        each=_not_measured,
    ),
    Rule("unidentified", loose, _unidentified, each=lambda of: of.profiles),
    Rule("tied", always, _tied_text, each=_tied),
    Rule(
        "bound",
        always,
        lambda of, n: f"{n} hit its bound {of.fit.values[n]:.4g}: it is limited there, not measured",
        each=lambda of: [n for n in of.fit.bounds_hit if n in of.fit.values],
    ),
    Rule(
        "points left out",
        lambda of, p: p.left_out > 0,
        lambda of, p: (
            f"profile of {p.name}: {plural(p.left_out, 'point')} of {p.left_out + len(p.value)} left out, whose inner "
            "fit did not converge"
        ),
        each=lambda of: of.profiles.values(),
    ),
    Rule(
        "above one",
        always,
        lambda of, c: f"rho of {c} is {of.fit.rho[c]:.3f}, above 1: kept as measured",
        each=_above_one,
    ),
    given.PRIORS,
)
