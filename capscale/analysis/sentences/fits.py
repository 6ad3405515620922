"""What a reader must know before quoting a number of a fit: the list "Not identified, or to be known"."""

import numpy as np

from capscale.analysis.conditioning import conditioning
from capscale.analysis.fit import Fit
from capscale.analysis.inspection import Inspection
from capscale.analysis.law import RHO_BOUNDS
from capscale.analysis.measure import unit_of
from capscale.analysis.sentences import outlying, shared
from capscale.analysis.sentences.rule import Rule, always, listing, number, plural

TIED = 0.95
"""Correlation at which two numbers are said to trade off."""
WIDE_FACTOR = 2.0
"""An exponent whose 95 % interval spans more than this factor is not identified."""
WIDE_LOSS = 0.2
"""Nor is E when its interval is wider than this share of the smallest loss."""
WIDE_RHO = 0.25
"""Nor a capacity whose interval is wider than this."""
CONSTANT_RATIO = 1.15
"""D/N within this factor counts as one ratio."""
MOSTLY = 0.9
"""Share of residuals outside delta from which the objective is nearly that of least absolute deviations."""
FEW = 3
"""Rows beyond the fitted numbers from which their scatter tells its own size: of 3, to a factor of 2."""
MISSED = 0.1
"""Fall of a profile below the fit's optimum, in its statistic, from which the fit has missed the best one."""


def _spare(fit: Fit) -> int:
    """Rows less fitted numbers."""
    return int((fit.problem.weight > 0).sum() - fit.free.sum())


def ratio_words(fit: Fit) -> str:
    """The table's tokens per parameter, in words."""
    ratio = fit.table.column("D") / fit.table.column("N")
    if _one_ratio(fit):
        ends = [f"{end:.3g}" for end in (ratio.min(), ratio.max())]
        return f"every D/N is {ends[0]}" if ends[0] == ends[1] else f"every D/N is between {ends[0]} and {ends[1]}"
    return f"D/N runs from {ratio.min():.3g} to {ratio.max():.3g}"


def _one_ratio(fit: Fit) -> bool:
    ratio = fit.table.column("D") / fit.table.column("N")
    return bool(ratio.max() / ratio.min() <= CONSTANT_RATIO)


def _sizes(fit: Fit) -> int:
    return len(np.unique(fit.table.column("N")))


def _one_budget(of: Inspection) -> str:
    D = of.fit.table.column("D")
    return f"every run in this fit has D = {D[0]:.4g}: B D^-beta cannot be told from E, and is part of it"


def _constant_ratio(of: Inspection) -> str:
    return (
        f"{ratio_words(of.fit)}: N and D move together, so alpha, beta and E are not identified by the design, and "
        "only the shape of the law tells them apart"
    )


def _missed(of: Inspection) -> str:
    name, deepest = max(of.profiles.items(), key=lambda item: item[1].below)
    return (
        f"the profile of {name} goes {deepest.below:.2g} below the optimum of the fit (1 is a standard deviation): "
        "the starts had missed a better one; try more starts"
    )


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


def refused(of: Inspection) -> set[str]:
    """Numbers and capacities, as `rho[FORMAT]`, whose intervals are not to be quoted: the rules below say why."""
    found = {name for name in of.profiles if loose(of, name)} | set(of.fit.bounds_hit) | set(of.not_told)
    found |= {f"rho[{curve}]" for curve in of.not_measured}
    if of.fit.problem.has_data_term and _one_ratio(of.fit):
        found |= {"alpha", "beta", "E"}
    return found | ({"alpha", "E"} if _sizes(of.fit) == 2 else set())


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
    why = ratio_words(of.fit) if _one_ratio(of.fit) else spans
    return f"{pair[0]} and {pair[1]} trade off (correlation {pair[2]:+.3f}) on this table: {why}"


def _above_one(of: Inspection) -> list[str]:
    top = RHO_BOUNDS[1] * (1 - 1e-6)
    return [c for c, rho in of.fit.rho.items() if c != "dense" and 1 < rho < top]


def _constraints(of: Inspection) -> list[str]:
    """Numbers that were put in, in words; a capacity of 1 that is the unit of the others is no claim about the runs."""
    given, unit = of.fit.constraints, f"rho[{unit_of(of.fit)}]"
    fixed = [f"{n} = {v:g}" for n, v in given.fixed.items() if n != unit]
    return fixed + [f"{n} = {m:g} ± {s:g}" for n, (m, s) in given.priors.items()]


def _against_free(of: Inspection) -> str:
    found = of.comparison
    assert found is not None
    return (
        f"RMSE {found.constrained.rmse:.3g} nats, {number(found.ratio)} times the {found.free.rmse:.3g} of the fit "
        f"without {listing(_constraints(of))}"
    )


def _agree(of: Inspection) -> bool:
    return of.comparison is not None and not of.comparison.contradicted and not of.comparison.allowed


def _allowed(of: Inspection) -> bool:
    return of.comparison is not None and of.comparison.allowed


def _allowed_text(of: Inspection) -> str:
    assert of.comparison is not None
    return (
        f"independent runs would contradict what was given: {_against_free(of)}, and true numbers exceed "
        f"{of.comparison.limit:.3g} times in one of 20 tables; with the errors that runs share here it is "
        f"{number(of.comparison.shared_ratio or 0.0)} times, and they do not"
    )


def _contradicted(of: Inspection) -> bool:
    return of.comparison is not None and of.comparison.contradicted


def _released(of: Inspection) -> str:
    assert of.comparison is not None
    each = [f"{r.name} goes to {number(r.value)} and closes {r.closes:.0%} of the gap" for r in of.comparison.releases]
    return listing(each)


def _contradicted_text(of: Inspection) -> str:
    assert of.comparison is not None
    return (
        f"the runs contradict what was given: {_against_free(of)}; true numbers exceed {of.comparison.limit:.3g} times "
        "in one of 20 tables"
    )


def _agree_text(of: Inspection) -> str:
    assert of.comparison is not None
    return (
        f"the runs do not contradict what was given: {_against_free(of)}, and true numbers exceed "
        f"{of.comparison.limit:.3g} times in one of 20 tables"
    )


def _pull_text(of: Inspection) -> str:
    assert of.comparison is not None
    names = [r.name for r in of.comparison.pulling]
    return f"{listing(names)} {'pulls' if len(names) == 1 else 'pull'}: freed alone, {_released(of)}"


def _priors_text(of: Inspection) -> str:
    return "priors were put in: " + ", ".join(f"{n} = {m:g} ± {s:g}" for n, (m, s) in of.fit.constraints.priors.items())


def _not_measured(of: Inspection) -> list[tuple[str, list[str]]]:
    """Reasons why capacities are not measured, each with its formats; but for the one that no number is told by."""
    reasons: dict[str, list[str]] = {}
    for curve, why in of.not_measured.items():
        if not of.not_told:
            reasons.setdefault(why, []).append(curve)
    return list(reasons.items())


GIVEN = (
    Rule("fixed numbers contradicted", _contradicted, _contradicted_text),
    Rule("fixed numbers agree", _agree, _agree_text),
    Rule("fixed numbers allowed", _allowed, _allowed_text),
    Rule("fixed numbers that pull", lambda of: _contradicted(of) and len(of.comparison.pulling) > 0, _pull_text),
    Rule(
        "fixed numbers pull together",
        lambda of: _contradicted(of) and len(of.comparison.releases) > 1 and not of.comparison.pulling,
        lambda of: f"it is their combination: no number freed alone closes half of the gap ({_released(of)})",
    ),
    Rule(
        "fixed numbers not compared",
        lambda of: bool(_constraints(of)) and of.comparison is None,
        lambda of: (
            f"{listing(_constraints(of))} could not be held against the runs: without it the law cannot be fitted to "
            "them, or nothing depends on it"
        ),
    ),
)
"""About fixed numbers and priors, which every command that fits may be given."""
ABOUT = (*outlying.RULES, *GIVEN)
"""What every command that uses a fit says of it."""
RULES = (
    *outlying.RULES,
    Rule("one budget of tokens", lambda of: not of.fit.problem.has_data_term, _one_budget),
    Rule("constant ratio", lambda of: of.fit.problem.has_data_term and _one_ratio(of.fit), _constant_ratio),
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
    Rule("two sizes", lambda of: _sizes(of.fit) == 2, lambda of: "2 model sizes: alpha and E cannot both be measured"),
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
    *GIVEN,
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
    Rule("priors", lambda of: len(of.fit.constraints.priors) > 0, _priors_text),
)
