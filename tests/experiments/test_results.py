"""Committed rows: what the text beside them says of them is what they say."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from capscale.analysis.rows import read
from capscale.defaults import CODEWORDS, RBBM, default_estimator
from capscale.estimator_names import find_estimator
from capscale.formats.catalog import find

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def mean_losses(name):
    """Mean loss of every (format, estimator, size)."""
    losses = defaultdict(list)
    for row in read(RESULTS / name, strict=False).rows:
        losses[row.weights, row.weights_estimator, row.N].append(row.loss)
    return {cell: np.mean(found) for cell, found in losses.items()}


def test_rbbm_is_the_best_b_rms_of_the_scan():
    settings = defaultdict(list)
    for (_, estimator, _), loss in mean_losses("rbbm_scan.csv").items():
        settings[estimator].append(loss)
    means = {estimator: np.mean(found) for estimator, found in settings.items() if estimator.startswith("b-rms")}
    assert len(means) == 4
    assert find_estimator(min(means, key=means.__getitem__)) == RBBM
    assert means["b-rms 0.1"] < np.mean(settings["fw"]) - 0.01


def test_the_radius_is_the_best_of_the_scan():
    losses = {cell[:2]: loss for cell, loss in mean_losses("vq_radius.csv").items()}
    assert len(losses) == 15
    radii = {estimator for _, estimator in losses}
    means = {radius: np.mean([loss for (_, each), loss in losses.items() if each == radius]) for radius in radii}
    assert find_estimator(min(means, key=means.__getitem__)) == CODEWORDS
    for codebook in ("higgs-d2-n4", "higgs-d2-n16", "higgs-d4-n16"):
        assert default_estimator(find(codebook), rotated=True) == CODEWORDS
    for codebook in ("higgs-d2-n4", "higgs-d4-n16"):
        assert losses[codebook, "hypersphere"] > losses[codebook, "hypersphere 1.6"] + 0.3


@pytest.mark.parametrize(
    ("format", "default", "before"),
    [
        ("int1", "clip 1.3", "clip"),
        ("top50", "b-rms 0.1", "straight-through"),
        ("top75", "b-rms 0.1", "straight-through"),
        ("2:4", "b-rms 0.1", "straight-through"),
        ("2:4+int4", "trust", "straight-through+trust"),
        ("4:8-pairs+int4", "trust", "straight-through+trust"),
    ],
)
def test_defaults_are_better_than_those_before_at_both_sizes(format, default, before):
    losses = mean_losses("recipes.csv")
    sizes = {N for name, _, N in losses if name == format}
    assert len(sizes) == 2
    for N in sizes:
        assert losses[format, default, N] < losses[format, before, N] - 0.03
