"""Texts in place of figures: the finding that each one shows, for those who do not see it."""

import math

import numpy as np

from capscale.analysis.bench_numbers import in_order
from capscale.analysis.capacities import CapacityRow
from capscale.analysis.cells import mean_losses
from capscale.analysis.leaderboard import TableBench
from capscale.analysis.loss_figure import one_budget
from capscale.analysis.operands import facts
from capscale.analysis.sentences.rule import Rule, always, listing, number, plural
from capscale.analysis.study import Study
from capscale.analysis.validation import pooled

WORDS = {
    "holds": "one curve serves all kinds",
    "denied": "one curve does not serve all kinds",
    "open": "the intervals do not tell whether one curve serves all kinds",
}
MOST_LOSSES = 4
"""Formats whose losses are told, the best and the worst ones."""


def _drawn(study: Study) -> list[CapacityRow]:
    """By capacity, largest first."""
    found = [c for c in study.capacities if c.is_measured and math.isfinite(c.gmse)]
    return sorted(found, key=lambda c: -c.rho.estimate)


def _span(study: Study) -> str:
    rows = _drawn(study)
    if len(rows) == 1:
        return f"{rows[0].curve} has capacity {number(rows[0].rho.estimate)} at GMSE {number(rows[0].gmse)}."
    best, worst = rows[0], rows[-1]
    return (
        f"Capacity of {plural(len(rows), 'format')} against their error: from {number(best.rho.estimate)} for "
        f"{best.curve} (GMSE {number(best.gmse)}) to {number(worst.rho.estimate)} for {worst.curve} "
        f"(GMSE {number(worst.gmse)})."
    )


def _rank(study: Study) -> str:
    rank = study.across.rank
    assert rank is not None
    verdict = WORDS.get(study.across.verdict)
    return f"Rank correlation with the error {rank.estimate:.2f}{f'; {verdict}' if verdict else ''}."


def _losses(study: Study) -> str:
    shown, budget = one_budget(study.core.rows)
    cells = mean_losses(study.core, shown)
    largest = max(c.N for c in cells)
    at = sorted((c for c in cells if largest <= c.N), key=lambda c: c.loss)
    chosen = at if len(at) <= MOST_LOSSES else [*at[: MOST_LOSSES // 2], *at[-MOST_LOSSES // 2 :]]
    told = listing(f"{c.loss:.4g} in {c.curve}" for c in chosen)
    sizes = len({c.N for c in cells})
    lowest = "the lowest and highest losses are" if len(at) > 1 else "it is"
    return (
        f"Loss against size at {budget}, {plural(sizes, 'size')}: at {largest:,.0f} parameters {lowest} {told} nats a "
        "token."
    )


def _on_curve(study: Study) -> list[CapacityRow]:
    return [c for c in study.capacities if c.is_measured and math.isfinite(c.law)]


def _agreement(study: Study) -> str:
    rows = _on_curve(study)
    inside = sum(c.rho.low <= c.law <= c.rho.high for c in rows)
    far = max(rows, key=lambda c: abs(c.rho.estimate - c.law))
    return (
        f"The intervals of {inside} of {plural(len(rows), 'format')} hold the capacity by one curve; farthest off is "
        f"{far.curve}, measured {number(far.rho.estimate)} for {number(far.law)}."
    )


def _profiles(study: Study) -> str:
    told = []
    for name, p in study.law_profiles.items():
        low, high = p.interval()[1:]
        closed = math.isfinite(low) and math.isfinite(high)
        told.append(f"{name} {number(low)} to {number(high)}" if closed else f"{name} without an end")
    return f"95 % intervals by the rise of the objective: {listing(told)}."


def _over(study: Study) -> dict[str, float]:
    """Bits that weights in a format take beyond those of an ideal format of its error."""
    first = study.core.first_of_curve
    told = [c for c in _drawn(study) if c.in_law and first[c.curve].activations == "dense"]
    over = {c.curve: facts(first[c.curve].weights).stored + math.log(c.gmse, 4) for c in told}
    return {curve: bits for curve, bits in over.items() if math.isfinite(bits)}


def _plane(study: Study) -> str:
    over = _over(study)
    near, far = min(over, key=lambda c: over[c]), max(over, key=lambda c: over[c])
    if len(over) == 1:
        return f"{near} stores {over[near]:.2f} bits a weight more than an ideal format of its error."
    return (
        f"Of {plural(len(over), 'format')} {near} is nearest to the bound, {over[near]:.2f} bits a weight above an "
        f"ideal format of its error; {far} is farthest, {over[far]:.2f} bits."
    )


def _bench(bench: TableBench) -> str:
    lines = in_order(bench)
    best = lines[0]
    beyond = {axis: pooled(best.along(axis)) for axis in ("N", "D")}
    words = [f"{number(beyond[a])} nats on {w}" for a, w in (("N", "larger models"), ("D", "longer trainings"))]
    told = listing(w for w, a in zip(words, ("N", "D"), strict=True) if np.isfinite(beyond[a]))
    errors = f" with an error of {told}" if told else ""
    return f"Of {plural(len(lines), 'law')} {best.name} stands first{errors}; the last is {lines[-1].name}."


CAPACITY = (
    Rule("alt: capacity", lambda study: len(_drawn(study)) > 0, _span),
    Rule("alt: rank", lambda study: study.across.rank is not None, _rank),
)
LOSS = (Rule("alt: loss", always, _losses),)
AGREEMENT = (Rule("alt: agreement", lambda study: len(_on_curve(study)) > 0, _agreement),)
PROFILES = (Rule("alt: profiles", lambda study: len(study.law_profiles) > 0, _profiles),)
PLANE = (Rule("alt: plane", lambda study: len(_over(study)) > 0, _plane),)
BENCH = (Rule("alt: bench", always, _bench),)
EVERY = (*CAPACITY, *LOSS, *AGREEMENT, *PROFILES, *PLANE, *BENCH)
