"""Capacity per stored number of parametrizations, of which GMSE says nothing. A part of "In short"."""

import math

import numpy as np

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.sentences.rule import Rule, listing, number
from capscale.analysis.study import Study


def _parametrized(study: Study) -> list[CapacityRow]:
    first = study.core.first_of_curve
    return [c for c in study.capacities if first[c.curve].is_parametrized]


def stored_share(study: Study, curve: str) -> float:
    """Stored numbers over N, mean over the runs of a format; NaN where the table does not say."""
    found = [r.extra.get("stored_numbers", math.nan) / r.N for r in study.core.rows if r.curve == curve]
    return float(np.mean(found))


def _bought(study: Study, c: CapacityRow) -> str:
    share = stored_share(study, c.curve)
    each = number(c.rho.estimate / share)
    return f"{c.curve} rho {number(c.rho.estimate)} by {number(share)} of the numbers ({each})"


def _text(study: Study) -> str:
    bought = listing(_bought(study, c) for c in _parametrized(study))
    return f"Capacity, and in brackets capacity per number that is stored, of N, which is the dense shape's: {bought}."


def _refused(study: Study) -> str:
    spoken = [c for c in study.capacities if math.isfinite(c.weights.error_ratio) and not c.weights.error_is_off]
    of_these = f" It is what the trained weights feel of {listing(c.curve for c in spoken)}." if spoken else ""
    names = listing(c.curve for c in _parametrized(study))
    return (
        f"GMSE predicts no capacity of {names}: it is the error of the nearest point of a set, and what is trained "
        "there are stored numbers, which go to no nearest point. Their capacities are measured, each by itself, and "
        f"no law of GMSE is fitted to them.{of_these}"
    )


RULES = (
    Rule("stored numbers", lambda study: len(_parametrized(study)) > 0, _text),
    Rule("no prediction from GMSE", lambda study: len(_parametrized(study)) > 0, _refused),
)
