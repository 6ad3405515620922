"""Numbers that were put in, fixed or with a prior, beside the fit without them."""

from capscale.analysis.inspection import Inspection
from capscale.analysis.measure import unit_of
from capscale.analysis.sentences.rule import Rule, listing, number


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


RULES = (
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
PRIORS = Rule("priors", lambda of: len(of.fit.constraints.priors) > 0, _priors_text)
