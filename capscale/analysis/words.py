"""A study in plain language: what was seen, and what this table does not show."""

import math

import numpy as np

from capscale.analysis.findings import ratio_words
from capscale.analysis.study import Study


def reading(study: Study) -> list[str]:
    """What was seen, a sentence or two each, most important first."""
    rows = sorted(study.capacities, key=lambda c: -c.rho.estimate)
    best, worst = rows[0], rows[-1]
    said = [
        f"A model trained in {worst.curve} is worth a dense model of {worst.rho.estimate:.0%} of its size; in "
        f"{best.curve}, one of {best.rho.estimate:.0%} ({_interval(best.rho.low, best.rho.high)}, 95 %)."
    ]
    r = study.rank_correlation
    if math.isfinite(r.estimate):
        count = sum(c.in_law and math.isfinite(c.gmse) for c in rows)
        said.append(
            f"The order of capacities is that of the formats' error on Gaussian data, known before training: rank "
            f"correlation {r.estimate:.3f} over {count} formats (95 %: {r.low:.2f} to {r.high:.2f}); one curve "
            f"rho(GMSE) goes through them with correlation {study.correlation:.3f}."
        )
    for c in rows:
        if not c.in_law and math.isfinite(c.gmse):
            side = "above" if c.rho.estimate > c.law else "below"
            said.append(
                f"{c.curve} stands {abs(c.rho.estimate - c.law):.2f} {side} the curve (rho {c.rho.estimate:.2f}, law "
                f"{c.law:.2f}) with the same GMSE as its neighbour: GMSE cannot see the "
                "gradient estimator."
            )
    for t in study.ties:
        said.append(
            f"Near-tie: {t.first} and {t.second} differ by {t.difference:.3f} ± {t.deviation:.3f}; their order turns "
            f"round in {t.reversed:.0%} of the resamples."
        )
    return said


def limits(study: Study) -> list[str]:
    """What this table does not show."""
    core = study.core
    seeds = {r.seed for r in core.rows if math.isfinite(r.seed)}
    N, D = core.column("N"), core.column("D")
    said = [f"{f.text}." for f in study.findings]
    left = len(study.table.rows) - len(core.rows)
    if left:
        said.insert(
            0, f"Dense runs at other D than the compressed ones are left out here ({left}); `capscale fit` uses them."
        )
    if len(np.unique(D)) < 2:
        said.append(
            "alpha, beta and E are not identified by these runs: all compressed formats saw one number of tokens, and "
            "the sizes are few. The capacities do not need them: the table gives each one over the whole range of E."
        )
    else:
        said.append(f"Exponents are of this table alone: {ratio_words(study.free)}.")
    if len(seeds) == 1:
        said.append("One seed: what another initialisation changes is in the error bars only as far as sizes differ.")
    said.append(f"Sizes run from {N.min():.4g} to {N.max():.4g} parameters; nothing here was measured beyond them.")
    outside = [p for p in study.equivalents if p.prolonged]
    if outside and study.measured.method == "dense curve":
        names = ", ".join(sorted({p.curve for p in outside}))
        said.append(
            f"{len(outside)} runs are worth less than the smallest or more than the largest dense model ({names}): "
            "there the dense curve was prolonged."
        )
    errors = [r.loss_se for r in core.rows if math.isfinite(r.loss_se)]
    if errors:
        said.append(
            f"The validation text alone moves every loss by about ± {np.median(errors):.3f} nats, all together; "
            "differences between runs are known better than that."
        )
    said.append("The law's constants belong to this family of models, this recipe and these kinds of formats.")
    return said


def _interval(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"
