"""Findings of a study, most important first: the list "In short"."""

import math
from collections.abc import Iterable

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.curves import GRADIENTS
from capscale.analysis.differences import Difference
from capscale.analysis.kinds import Kind
from capscale.analysis.sentences import outlying, quotable, stored, weights
from capscale.analysis.sentences.rule import Rule, always, listing, plural
from capscale.analysis.study import Study
from capscale.analysis.uncertainty import Interval

BY_CHANCE = 0.025
"""Share of random orders from which a perfect one is said to be what chance may give."""


def measured(study: Study) -> list[CapacityRow]:
    """The capacities that are measured, largest first."""
    return sorted((c for c in study.capacities if c.is_measured), key=lambda c: -c.rho.estimate)


def _worth(c: CapacityRow) -> str:
    return f"{c.rho.estimate:.0%} of its size ({_span(c.rho)})"


def _model(study: Study) -> str:
    """Model that capacities are shares of."""
    return "a dense model" if study.unit == "dense" else f"a model in {study.unit}"


def _span(rho: Interval) -> str:
    return f"{rho.low:.2f} to {rho.high:.2f}, 95 %"


def _extremes(study: Study) -> str:
    rows = measured(study)
    return (
        f"A model trained in {rows[-1].curve} is worth {_model(study)} of {_worth(rows[-1])}; in {rows[0].curve}, one "
        f"of {_worth(rows[0])}."
    )


def _apart(study: Study) -> bool:
    rows = measured(study)
    return len(rows) >= 2 and rows[-1].rho.high < rows[0].rho.low


def _level(study: Study) -> str:
    rows = measured(study)
    return (
        f"No capacity stands out: from {rows[-1].curve}, worth {_model(study)} of {_worth(rows[-1])}, to "
        f"{rows[0].curve}, {_worth(rows[0])}, the intervals overlap."
    )


def _ranked(study: Study) -> Iterable[Kind]:
    return (k for k in study.kinds if k.rank is not None)


def _rank(r: Interval, formats: int) -> str:
    return f"rank correlation {r.estimate:.2f} over {plural(formats, 'format')} (95 %: {r.low:.2f} to {r.high:.2f})"


def _chance(k: Kind) -> str:
    orders = math.factorial(len(k.curves))
    perfect = k.rank is not None and k.rank.estimate > 1 - 1e-9
    return f"; chance alone gives this order in one of {orders} cases" if perfect and orders * BY_CHANCE < 1 else ""


def _in_order(study: Study, k: Kind) -> str:
    assert k.rank is not None
    return (
        f"Among {k.name} formats capacity falls as the error on Gaussian data rises, which is known before training: "
        f"{_rank(k.rank, len(k.curves))}{_chance(k)}."
    )


def _saturating(study: Study) -> Iterable[Kind]:
    return (k for k in study.kinds if k.lsat is not None)


def _ends(study: Study, k: Kind) -> str:
    assert k.lsat is not None
    return (
        f"However small their error, {k.name} formats are worth less than a dense model: their curve has Lsat = "
        f"{k.lsat.estimate:.2f} ({k.lsat.low:.2f} to {k.lsat.high:.2f}, 95 %)."
    )


def _reversed(study: Study, k: Kind) -> str:
    assert k.rank is not None
    return (
        f"Among {k.name} formats capacity rises with the error on Gaussian data, against the law: "
        f"{_rank(k.rank, len(k.curves))}."
    )


def _no_order(study: Study, k: Kind) -> str:
    assert k.rank is not None
    return (
        f"Whether capacity follows the error on Gaussian data among {k.name} formats, these runs do not say: "
        f"{_rank(k.rank, len(k.curves))}."
    )


def _all_ranks(study: Study) -> str:
    rank = study.across.rank
    count = sum(len(k.curves) for k in study.kinds)
    return f"; over all kinds, {_rank(rank, count)}" if rank is not None else ""


def _departures(study: Study) -> str:
    each = [f"{d.kind} {d.rho.estimate:+.2f} ({d.rho.low:+.2f} to {d.rho.high:+.2f})" for d in study.across.departures]
    return listing(each)


def _one_curve(study: Study) -> str:
    return (
        f"One curve serves all kinds, to within {study.across.tolerance:.2f} of rho, which is how far it misses a kind "
        f"in the paper's figures: each kind stands above the curve of the others by {_departures(study)}"
        f"{_all_ranks(study)}."
    )


def _denied(study: Study) -> str:
    off = [d.kind for d in study.across.departures if d.rho.low > 0 or d.rho.high < 0]
    return (
        f"One curve for all kinds is denied by these runs, at {listing(off)}: each kind stands above the curve of the "
        f"others by {_departures(study)}, with intervals for all at once{_all_ranks(study)}."
    )


def _open(study: Study) -> str:
    compared = {d.kind for d in study.across.departures}
    rest = [k.name for k in study.kinds if k.name not in compared]
    left = f"; {listing(rest)} {'has' if len(rest) == 1 else 'have'} nothing to be compared with" if rest else ""
    return (
        "Whether one curve serves all kinds cannot be told: each kind stands above the curve of the others by "
        f"{_departures(study)}, where within {study.across.tolerance:.2f} would be agreement{left}{_all_ranks(study)}."
    )


def _verdict(name: str) -> "Rule":
    texts = {"holds": _one_curve, "denied": _denied, "open": _open}
    return Rule(f"one curve {name}", lambda study: study.across.verdict == name, texts[name])


def _told(study: Study, d: Difference) -> bool:
    return d.rho.low > 0 or d.rho.high < 0


def _estimator(study: Study, d: Difference) -> str:
    side = "above" if d.rho.estimate > 0 else "below"
    unseen = "how gradients are rounded" if GRADIENTS in d.first else "the gradient estimator"
    return (
        f"{d.first} stands {abs(d.rho.estimate):.2f} {side} {d.second} (95 %: {d.rho.low:+.2f} to {d.rho.high:+.2f}) "
        f"at the same GMSE: GMSE cannot see {unseen}."
    )


def _estimator_tie(study: Study, d: Difference) -> str:
    two = "gradients held in two ways" if GRADIENTS in d.first else "two gradient estimators"
    return (
        f"{d.first} and {d.second}, one format with {two}, are not told apart: they differ by "
        f"{d.rho.estimate:+.2f} (95 %: {d.rho.low:+.2f} to {d.rho.high:+.2f})."
    )


def _tie(study: Study, t: Difference) -> str:
    return (
        f"Near-tie: {t.first} and {t.second} differ by {t.rho.estimate:.3f} ± {t.deviation:.3f}; their order turns "
        f"round in {t.reversed:.0%} of the resamples."
    )


def _dense_law(study: Study) -> str:
    of, draws = study.inspected, study.law_bootstrap
    assert of is not None
    assert draws is not None
    told = [
        f"{n} is {of.fit.values[n]:.3g} ({draws.interval(n).low:.3g} to {draws.interval(n).high:.3g}, 95 %)"
        for n in of.profiles
        if n not in quotable.refused(of)
    ]
    none = ", which these runs contradict" if quotable.of_a_wrong_law(of) else ", none of whose exponents they identify"
    found = f": {listing(told)}" if told else none
    return f"Every run is dense, and the report is of the dense law{found}."


def _pulling(study: Study) -> list[str]:
    """Single runs and formats that pull some law of the study."""
    single = dict.fromkeys(r.run for of in study.inspections for r in outlying.single_rows(of))
    return [*single, *dict.fromkeys(f"the runs of {c}" for of in study.inspections for c in of.outlying.formats)]


def _pulling_text(study: Study) -> str:
    runs = _pulling(study)
    return (
        f"Not all runs are described by the laws that the others follow: {listing(runs)}; what the fits are without "
        "them stands below."
    )


RULES = (
    Rule("runs that pull", lambda study: len(_pulling(study)) > 0, _pulling_text),
    Rule("dense law", lambda study: study.dense_only, _dense_law),
    Rule(
        "nothing measured",
        lambda study: len(study.capacities) > 0 and not measured(study),
        lambda study: "No capacity is measured by these runs.",
    ),
    Rule(
        "one format",
        lambda study: len(measured(study)) == 1,
        lambda study: (
            f"A model trained in {measured(study)[0].curve} is worth {_model(study)} of {_worth(measured(study)[0])}."
        ),
    ),
    Rule("extremes", _apart, _extremes),
    Rule("no extremes", lambda study: len(measured(study)) >= 2 and not _apart(study), _level),
    Rule("in order", lambda study, k: k.rank.low > 0, _in_order, each=_ranked),
    Rule("reversed", lambda study, k: k.rank.high < 0, _reversed, each=_ranked),
    Rule("order not told", lambda study, k: k.rank.low <= 0 <= k.rank.high, _no_order, each=_ranked),
    Rule("ends below dense", always, _ends, each=_saturating),
    _verdict("holds"),
    _verdict("denied"),
    _verdict("open"),
    Rule("another estimator", _told, _estimator, each=lambda study: study.other_estimators),
    Rule(
        "another estimator not told",
        lambda study, d: not _told(study, d),
        _estimator_tie,
        each=lambda study: study.other_estimators,
    ),
    Rule("near-tie", always, _tie, each=lambda study: study.ties),
    *weights.RULES,
    *stored.RULES,
)
