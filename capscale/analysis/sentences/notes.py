"""Notes below the tables and pictures of a report: each says what is there, and only what is."""

import math

from capscale.analysis.cells import error_source
from capscale.analysis.curves import GRADIENTS
from capscale.analysis.sentences.rule import Rule, always, listing, plural
from capscale.analysis.study import Study


def _any_unmeasured(study: Study) -> bool:
    return any(not c.is_measured for c in study.capacities)


def _open_interval(study: Study) -> bool:
    intervals = [p.interval() for of in study.inspections for p in of.profiles.values()]
    return any(not (math.isfinite(i.low) and math.isfinite(i.high)) for i in intervals)


def _has_curve(study: Study) -> bool:
    return study.capacity_law is not None


def _own_curves(study: Study) -> list[str]:
    return [k.name for k in study.kinds if k.law is not None]


def _drawn(study: Study) -> bool:
    return any(c.is_measured and math.isfinite(c.gmse) for c in study.capacities)


def _formats(study: Study) -> str:
    count = len([c for c in study.core.curves if c != "dense"])
    return f"{plural(len(study.core), 'run')} in {plural(count, 'compressed format')}"


def _or_gradients(study: Study) -> str:
    return " or compressed gradients" if any(GRADIENTS in c.curve for c in study.capacities) else ""


def _another(study: Study) -> str:
    return f"another gradient estimator than its format's own{_or_gradients(study)}"


def _reached(study: Study, model: str, parameters: str) -> str:
    return (
        f"Capacity ρ is the share of the size of {model} that a compressed model is worth: Nρ {parameters} reach the "
        "same loss on the same data."
    )


OPENING = (
    Rule(
        "opening: dense runs",
        lambda study: study.dense_only,
        lambda study: f"{plural(len(study.core), 'dense run')}, none in a compressed format.",
    ),
    Rule(
        "opening",
        lambda study: study.unit == "dense" and not study.dense_only,
        lambda study: f"{_formats(study)} and dense. {_reached(study, 'a dense model', 'dense parameters')}",
    ),
    Rule(
        "opening: no dense runs",
        lambda study: study.unit != "dense",
        lambda study: f"{_formats(study)}, none dense.",
    ),
    Rule(
        "opening: another unit",
        lambda study: study.unit not in ("dense", ""),
        lambda study: _reached(study, f"a model in {study.unit}", f"parameters in {study.unit}"),
    ),
)
CAPACITIES = (
    Rule(
        "note: dense curve",
        lambda study: study.measured.method == "dense curve",
        lambda study: (
            "Measured: each run's dense-equivalent size read off the dense losses at equal tokens, averaged over "
            "sizes; no exponent enters."
        ),
    ),
    Rule(
        "note: joint fit",
        lambda study: study.measured.method == "joint fit",
        lambda study: "Measured: the decoupled law, one free ρ per format, fitted to all losses together.",
    ),
    Rule(
        "note: resamples",
        lambda study: any(c.is_measured for c in study.capacities),
        lambda study: f"Intervals: {len(study.measured.draws)} resamples.",
    ),
    Rule(
        "note: over E",
        lambda study: study.free is not None,
        lambda study: (
            "Joint fit: the law with a free ρ per format; “over all E” is its range as E is fixed anywhere in its 95 % "
            "interval."
        ),
    ),
    Rule(
        "note: own kind",
        lambda study: len(_own_curves(study)) > 0,
        lambda study: (
            f"“Own kind”: the curve through the formats of its kind ({listing(_own_curves(study))}), as the paper "
            "states its law; “all kinds”: the one through all."
        ),
    ),
    Rule(
        "note: other estimators",
        lambda study: any(not c.in_law for c in study.capacities),
        lambda study: f"* trained with {_another(study)}; in no curve.",
    ),
    Rule(
        "note: not measured",
        _any_unmeasured,
        lambda study: "A capacity that is not measured has its reason in the list of what this does not show.",
    ),
)
FITS = (
    Rule(
        "note: open ends",
        _open_interval,
        lambda study: "A dash in an interval is an end that lies beyond the bounds: not measured.",
    ),
)
EQUIVALENTS = (
    Rule(
        "note: beyond the dense sizes",
        lambda study: any(e.prolonged for e in study.equivalents),
        lambda study: "† beyond the dense sizes.",
    ),
    Rule("note: nats", always, lambda study: "Losses are nats per token on the validation text."),
)
CAPACITY = (
    Rule(
        "caption: capacity",
        _drawn,
        lambda study: (
            "Capacity against Gaussian error. Each point is a format, measured by training, its mark that of its kind."
        ),
    ),
    Rule(
        "caption: curves of kinds",
        lambda study: len(_own_curves(study)) > 0,
        lambda study: (
            f"Lines with bands are the law through the formats of one kind ({listing(_own_curves(study))}) with the "
            "estimators that belong to them."
        ),
    ),
    Rule(
        "caption: one curve",
        lambda study: _has_curve(study) and len(study.kinds) > 1,
        lambda study: "The thin dashed line is one curve through all kinds.",
    ),
    Rule(
        "caption: other estimators",
        lambda study: any(not c.in_law and c.is_measured and math.isfinite(c.gmse) for c in study.capacities),
        lambda study: f"Hollow marks: another gradient estimator{_or_gradients(study)}, in no curve.",
    ),
    Rule(
        "caption: ideal bits",
        _drawn,
        lambda study: (
            "The upper axis: the fewest bits at which any format could have this error (rate-distortion bound)."
        ),
    ),
)
LOSS = (
    Rule(
        "caption: loss",
        lambda study: len(study.equivalents) > 0,
        lambda study: (
            "Loss against size. A dashed line goes from a format's largest model to the dense curve: where it ends is "
            "the size of the dense model that is just as good."
        ),
    ),
    Rule("caption: loss alone", lambda study: not study.equivalents, lambda study: "Loss against size."),
    Rule(
        "caption: errors by seeds",
        lambda study: error_source(study.core) == "seeds",
        lambda study: "Bars: 95 % intervals of means over seeds, by how far seeds lie apart in the whole table.",
    ),
    Rule(
        "caption: errors of the text",
        lambda study: error_source(study.core) == "text",
        lambda study: (
            f"Bars at {study.core.curves[0]}: 95 % sampling error of the validation text, which all runs that were "
            "scored on it share, so that their differences are known better."
        ),
    ),
)
AGREEMENT = (
    Rule(
        "caption: agreement",
        always,
        lambda study: "Measured capacity against one curve through all kinds; on the diagonal the curve is right.",
    ),
)
PROFILES = (
    Rule(
        "caption: profiles",
        always,
        lambda study: (
            f"How sharply the losses fix {listing(study.law_profiles)}: the curve below the dashed line is the 95 % "
            "interval. A flat valley is a number that these runs do not measure."
        ),
    ),
)
PLANE = (
    Rule(
        "caption: plane",
        always,
        lambda study: (
            "Error against storage: the nearer the line, the better a format uses its bits; large marks are worth most."
        ),
    ),
)
EVERY = (*OPENING, *CAPACITIES, *FITS, *EQUIVALENTS, *CAPACITY, *LOSS, *AGREEMENT, *PROFILES, *PLANE)
