"""Whether GMSE is what the trained weights feel: a part of the list "In short"."""

import math

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.sentences.rule import Rule, listing, plural
from capscale.analysis.study import Study
from capscale.realised import ERROR_FACTOR


def _told(study: Study) -> list[CapacityRow]:
    return [c for c in study.capacities if math.isfinite(c.weights.error_ratio)]


def _other_errors(study: Study) -> list[CapacityRow]:
    return [c for c in study.capacities if c.weights.error_is_off]


def _closed_masks(study: Study) -> list[CapacityRow]:
    return [c for c in study.capacities if c.weights.mask_is_off]


def _error_text(study: Study) -> str:
    said = (
        f"{c.curve} {c.weights.error_end:.2g} for {c.weights.gmse:.2g} ({c.weights.error_ratio:.2g} times)"
        for c in _other_errors(study)
    )
    return f"GMSE is not what these weights feel: at the end of training they realise {listing(said)}."


def _mask_text(study: Study) -> str:
    said = (
        f"{c.curve} {c.weights.pass_rate_end:.0%} of the gradients (of Gaussian weights: "
        f"{c.weights.pass_rate_gaussian:.0%})"
        for c in _closed_masks(study)
    )
    return f"Masks have closed on the weights: at the end of training there pass {listing(said)}."


def _as_gaussian_text(study: Study) -> str:
    return (
        f"GMSE is what the trained weights feel: the realised error of {plural(len(_told(study)), 'format')} is GMSE "
        f"to within a factor of {ERROR_FACTOR:g}."
    )


RULES = (
    Rule("weights as Gaussian", lambda study: len(_told(study)) > 0 and not _other_errors(study), _as_gaussian_text),
    Rule("weights not as Gaussian", lambda study: len(_other_errors(study)) > 0, _error_text),
    Rule("closed masks", lambda study: len(_closed_masks(study)) > 0, _mask_text),
)
