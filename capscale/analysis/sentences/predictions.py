"""Sentences about what predictions of an ensemble rest on."""

import numpy as np

from capscale.analysis.ensemble import Ensemble
from capscale.analysis.sentences.rule import Rule, listing, plural


def _laws(of: Ensemble) -> str:
    each = [f"{n} ({w:.0%})" for n, w in sorted(zip(of.law_names, of.weights, strict=True), key=lambda x: -x[1])]
    how = "by how they predict the runs beyond cuts of this table" if of.folds else "alike: the table allows no rollout"
    return f"predicted by {plural(len(each), 'law')}, weighted {how}: {listing(each)}"


def _tried(of: Ensemble) -> str:
    said = []
    for axis, words in (("N", "larger models"), ("D", "longer trainings")):
        folds = [f for f in of.folds if f.axis == axis]
        if folds:
            rmse = np.sqrt(np.mean(np.concatenate([f.error for f in folds]) ** 2))
            reach = np.exp(of.calibration.reach["N" if axis == "N" else "D"])
            cut = "a cut" if len(folds) == 1 else f"{len(folds)} cuts"
            said.append(f"{words} up to {reach:.2g} times beyond {cut} were predicted to {rmse:.3g} nats")
    return (
        f"intervals rest on rollouts: {listing(said)}, {of.calibration.covered:.0%} of them inside the 95 % intervals "
        "of the laws' own theory; what is missed grows with the logarithm of the distance and is part of every interval"
    )


def _not_tried(of: Ensemble) -> list[str]:
    words = {"N": "larger models", "D": "longer trainings"}
    return [w for axis, w in words.items() if not of.calibration.folds["N" if axis == "N" else "D"]]


RULES = (
    Rule("ensemble", lambda of: len(of.fits) > 1, _laws),
    Rule("rests on rollouts", lambda of: len(of.folds) > 0, _tried),
    Rule(
        "no rollouts",
        lambda of: len(_not_tried(of)) > 0,
        lambda of: (
            f"no cut of this table tries {listing(_not_tried(of))}: beyond the runs in that direction no interval is "
            "stated"
        ),
    ),
    Rule(
        "laws left out",
        lambda of, item: True,
        lambda of, item: f"the {item[0]} law has no part: {item[1]}",
        each=lambda of: of.left_out,
    ),
)
