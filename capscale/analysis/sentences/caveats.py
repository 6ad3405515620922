"""What a study does not show: the list "What this does not show"."""

import math

import numpy as np

from capscale.analysis.findings import ratio_words
from capscale.analysis.sentences.rule import Rule, always
from capscale.analysis.study import Study


def _left_out(study: Study) -> int:
    return len(study.table.rows) - len(study.core.rows)


def _budgets(study: Study) -> int:
    return len(np.unique(study.core.column("D")))


def _one_seed(study: Study) -> bool:
    return len({r.seed for r in study.core.rows if math.isfinite(r.seed)}) == 1


def _sizes(study: Study) -> str:
    N = study.core.column("N")
    return f"Sizes run from {N.min():.4g} to {N.max():.4g} parameters; nothing here was measured beyond them."


def _prolonged(study: Study) -> bool:
    return study.measured.method == "dense curve" and any(p.prolonged for p in study.equivalents)


def _prolonged_text(study: Study) -> str:
    outside = [p for p in study.equivalents if p.prolonged]
    names = ", ".join(sorted({p.curve for p in outside}))
    return (
        f"{len(outside)} runs are worth less than the smallest or more than the largest dense model ({names}): "
        "there the dense curve was prolonged."
    )


def _errors(study: Study) -> list[float]:
    return [r.loss_se for r in study.core.rows if math.isfinite(r.loss_se)]


RULES = (
    Rule(
        "left out",
        lambda study: _left_out(study) > 0,
        lambda study: (
            f"Dense runs at other D than the compressed ones are left out here ({_left_out(study)}); `capscale fit` "
            "uses them."
        ),
    ),
    Rule("finding", always, lambda study, f: f"{f.text}.", each=lambda study: study.findings),
    Rule(
        "one budget",
        lambda study: _budgets(study) < 2,
        lambda study: (
            "alpha, beta and E are not identified by these runs: all compressed formats saw one number of tokens, and "
            "the sizes are few. The capacities do not need them: the table gives each one over the whole range of E."
        ),
    ),
    Rule(
        "several budgets",
        lambda study: _budgets(study) >= 2,
        lambda study: f"Exponents are of this table alone: {ratio_words(study.free)}.",
    ),
    Rule(
        "one seed",
        _one_seed,
        lambda study: "One seed: what another initialisation changes is in the error bars only as far as sizes differ.",
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
        always,
        lambda study: "The law's constants belong to this family of models, this recipe and these kinds of formats.",
    ),
)
