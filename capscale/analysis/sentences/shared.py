"""Rules about errors that runs share, and about checkpoints of one run: part of what is to be known of a fit."""

import numpy as np

from capscale.analysis.fit import Fit
from capscale.analysis.inspection import Inspection
from capscale.analysis.sentences.rule import Rule, always, number, plural
from capscale.analysis.shared_errors import Level

LIKELY = 0.5
"""Probability from which a shared error is spoken of; intervals allow for less probable ones, too."""
WHAT: dict[Level, str] = {"run": "rows of one run", "cell": "runs of one N and D", "size": "runs of one size"}


def _likely(fit: Fit) -> list[Level]:
    return [level for level, probability in fit.shared.present.items() if probability > LIKELY]


def _text(of: Inspection, level: Level) -> str:
    errors = of.fit.shared
    deviation = float(np.sqrt(np.mean(of.fit.whitened**2) * errors.ratio[errors.levels.index(level)]))
    unit = "in log loss" if of.fit.settings.logarithmic else "nats"
    how = f"with probability {errors.present[level]:.2f}, of about {number(deviation)} {unit}"
    return f"{WHAT[level]} share an error {how}: the fit weighs them accordingly, and the intervals allow for it"


def _runs(fit: Fit) -> int:
    return len(np.unique(fit.shared.unit))


def _checkpoints(of: Inspection) -> str:
    rows, runs = len(of.fit.table), plural(_runs(of.fit), "run")
    return f"{rows} rows are checkpoints of {runs}: the rows of a run are drawn together, as one"


RULES = (
    Rule("shared errors", always, _text, each=lambda of: _likely(of.fit)),
    Rule("checkpoints", lambda of: _runs(of.fit) < len(of.fit.table), _checkpoints),
)
