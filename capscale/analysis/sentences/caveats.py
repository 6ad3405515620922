"""Caveats of a study: the list "What this does not show"."""

import math
from collections import Counter, defaultdict

import numpy as np

from capscale.analysis.capacities import CapacityRow, has_error
from capscale.analysis.kinds import LEAST_FORMATS
from capscale.analysis.measure import why_no_dense_curve
from capscale.analysis.sentences import fits, outlying, quotable
from capscale.analysis.sentences.rule import Rule, Sentence, always, listing, plural, say
from capscale.analysis.study import Study


def _not_measured(study: Study) -> list[tuple[str, list[str]]]:
    """Reasons why capacities are not measured, each with its formats."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for c in study.capacities:
        if not c.is_measured:
            reasons[c.why_not].append(c.curve)
    return list(reasons.items())


def _without_rank(study: Study) -> list[tuple[str, int]]:
    """Kinds whose rank correlation is not computed for want of formats, with how many they have."""
    return [(k.name, len(k.curves)) for k in study.kinds if len(k.curves) < LEAST_FORMATS]


def _level_kinds(study: Study) -> list[str]:
    return [k.name for k in study.kinds if k.rank is None and len(k.curves) >= LEAST_FORMATS]


def _both_operands(study: Study) -> list[str]:
    first = study.core.first_of_curve
    both = [c.curve for c in study.capacities if "dense" not in (first[c.curve].weights, first[c.curve].activations)]
    return [c for c in both if has_error(first[c])]


def _without_error(study: Study) -> list[str]:
    first = study.core.first_of_curve
    return [c.curve for c in study.capacities if not has_error(first[c.curve])]


def _left_out(study: Study) -> int:
    return len(study.table.rows) - len(study.core.rows)


def _by_joint_fit(study: Study) -> bool:
    return study.measured.method == "joint fit" and any(c.is_measured for c in study.capacities)


def _widest(study: Study) -> CapacityRow:
    return max((c for c in study.capacities if c.is_measured), key=lambda c: c.over_E[1] - c.over_E[0])


def _moves_with_E(study: Study) -> bool:
    c = _widest(study)
    return c.over_E[1] - c.over_E[0] > (c.rho.high - c.rho.low) / 4


def _joint_fit(study: Study) -> str:
    c = _widest(study)
    moved = f"{c.over_E[0]:.3f} to {c.over_E[1]:.3f}"
    effect = (
        f"they hang on E: as it goes through its 95 % interval, that of {c.curve} goes from {moved}"
        if _moves_with_E(study)
        else f"E through its 95 % interval moves none of them more than that of {c.curve}, {moved}"
    )
    return (
        "Capacities are those of a law fitted to all losses, not read off the dense curve "
        f"({why_no_dense_curve(study.core)}); {effect}."
    )


def _seeds(study: Study) -> dict[tuple[str, float, float], int]:
    """How many seeds each format, size and number of tokens has; empty where some run does not say its own."""
    rows = study.core.rows
    if not all(math.isfinite(r.seed) for r in rows):
        return {}
    return Counter((curve, N, D) for curve, N, D, _ in {(r.curve, r.N, r.D, r.seed) for r in rows})


def _one_seed(study: Study) -> bool:
    return len({r.seed for r in study.core.rows if math.isfinite(r.seed)}) == 1


def _sizes(study: Study) -> str:
    N = study.core.column("N")
    if N.min() == N.max():
        return f"All models have {N[0]:.4g} parameters; nothing here was measured at another size."
    return f"Sizes run from {N.min():.4g} to {N.max():.4g} parameters; nothing here was measured beyond them."


def _prolonged(study: Study) -> bool:
    return study.measured.method == "dense curve" and any(p.prolonged for p in study.equivalents)


def _prolonged_text(study: Study) -> str:
    outside = [p for p in study.equivalents if p.prolonged]
    one = len(outside) == 1
    return (
        f"{plural(len(outside), 'run')} {'is' if one else 'are'} worth less than the smallest or more than the largest "
        f"dense model ({listing(sorted({p.curve for p in outside}))}): there the dense curve was prolonged."
    )


def _errors(study: Study) -> list[float]:
    return [r.loss_se for r in study.core.rows if math.isfinite(r.loss_se)]


def _one_size(study: Study) -> bool:
    return study.inspected is not None and len(study.inspected.not_told) > 0


def _of_law(study: Study) -> list[Sentence]:
    return say(fits.RULES, study.inspected) if study.inspected else []


def _of_decoupled(study: Study) -> list[Sentence]:
    """About rows that pull the decoupled law, where it is not the law spoken of already."""
    free = study.free_inspected
    return say(outlying.RULES, free) if free is not None and free is not study.inspected else []


def _absolute(study: Study) -> list[str]:
    """Capacities by a law of GMSE where no run is dense, as shares of a dense model."""
    law = study.law
    if study.unit == "dense" or law is None or law.law.form is None:
        return []
    return [f"{c} {rho:.3f}" for c, rho in law.rho.items()]


def _no_dense(study: Study) -> str:
    law = (
        f" By its form alone, in which GMSE 0 is a dense model, the {study.law.law.name} law puts rho at "
        f"{listing(_absolute(study))} of dense models."
        if study.law and _absolute(study)
        else ""
    )
    return (
        f"No run is dense, so capacities are shares of the size of a model in {study.unit}, not of a dense one, and no "
        f"curve of rho goes through them.{law}"
    )


RULES = (
    Rule(
        "part missing",
        always,
        lambda study, item: f"There is no {item[0]} here: {item[1]}.",
        each=lambda study: study.missing.items(),
    ),
    Rule("no dense runs", lambda study: study.unit not in ("dense", ""), _no_dense),
    Rule(
        "not measured",
        always,
        lambda study, item: (
            f"rho of {listing(item[1])} is not measured, and has no part in order, ties and curves: {item[0]}."
        ),
        each=_not_measured,
    ),
    Rule(
        "too few for a rank correlation",
        lambda study: len(_without_rank(study)) > 0,
        lambda study: (
            "No rank correlation for "
            + listing(f"{name} formats ({count} measured)" for name, count in _without_rank(study))
            + f": it takes {LEAST_FORMATS}."
        ),
    ),
    Rule(
        "level kind",
        always,
        lambda study, name: (
            f"No rank correlation for {name} formats: their capacities, or their errors on Gaussian data, are equal."
        ),
        each=_level_kinds,
    ),
    Rule(
        "one kind",
        lambda study: study.across.verdict == "one kind" and len(study.kinds) == 1,
        lambda study: (
            f"All measured formats of a law of GMSE are {study.kinds[0].name}: nothing here says whether another kind "
            "follows their curve."
        ),
    ),
    Rule(
        "kinds not compared",
        lambda study: study.across.verdict == "few formats",
        lambda study: (
            f"Whether {listing(k.name for k in study.kinds)} formats share one curve was not looked at: no kind has "
            "formats within reach of a curve through those of the others."
        ),
    ),
    Rule(
        "both operands",
        lambda study: len(_both_operands(study)) > 0,
        lambda study: (
            f"{listing(_both_operands(study))}: weights and activations are compressed, so that there is no one GMSE, "
            "and no place in rank correlations and in the picture of capacity against GMSE."
        ),
    ),
    Rule(
        "no GMSE",
        lambda study: len(_without_error(study)) > 0,
        lambda study: (
            f"{listing(_without_error(study))}: no GMSE is known, so no place in rank correlations, curves and the law "
            "of GMSE."
        ),
    ),
    Rule(
        "left out",
        lambda study: _left_out(study) > 0 and study.measured.method == "dense curve",
        lambda study: (
            f"{plural(_left_out(study), 'dense run')} at other D than the compressed ones "
            f"{'has' if _left_out(study) == 1 else 'have'} a part in the laws fitted to the losses only."
        ),
    ),
    Rule("fit", always, lambda study, s: f"{s.text}.", each=_of_law),
    Rule("decoupled fit", always, lambda study, s: f"{s.text}.", each=_of_decoupled),
    Rule(
        "capacities without exponents",
        lambda study: study.measured.method == "dense curve",
        lambda study: "The capacities need neither alpha, beta nor E: they are read off the dense losses at equal D.",
    ),
    Rule("capacities of the law", _by_joint_fit, _joint_fit),
    Rule(
        "exponents",
        lambda study: bool(study.inspected and study.law and study.law.problem.has_data_term) and not _one_size(study),
        lambda study: f"Exponents are of this table alone: {quotable.ratio_words(study.law)}.",
    ),
    Rule(
        "one seed",
        _one_seed,
        lambda study: "One seed: what another initialisation changes is in the error bars only as far as sizes differ.",
    ),
    Rule(
        "seeds",
        lambda study: min(_seeds(study).values(), default=0) >= 2,
        lambda study: (
            f"At least {min(_seeds(study).values())} seeds for each format, size and number of tokens: what another "
            "initialisation changes is in the error bars."
        ),
    ),
    Rule("sizes", always, _sizes),
    Rule("prolonged", _prolonged, _prolonged_text),
    Rule(
        "validation error",
        lambda study: len(_errors(study)) > 0,
        lambda study: (
            f"The validation text alone moves every loss by about ± {np.median(_errors(study)):.3f} nats, all "
            "together; differences between runs are known better than that."
        ),
    ),
    Rule(
        "constants",
        lambda study: study.law is not None and not study.dense_only,
        lambda study: "The law's constants belong to this family of models, this recipe and these kinds of formats.",
    ),
    Rule(
        "constants of dense models",
        lambda study: study.dense_only,
        lambda study: "The law's constants belong to this family of models and this recipe.",
    ),
)
