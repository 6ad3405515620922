"""Claims of Figure 2a on rows where they are true, where they are false, and where runs are missing."""

import math

import pytest
from capscale.experiments import fig2a
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.formats.catalog import label

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def ending(*ends):
    """Capacities on one curve, ending at a value for each dimension."""

    def rho(representation):
        name = label(representation.weights.format)
        dimension = 0 if name.startswith("lloyd") else 1 if "-d2-" in name else 2
        return float(CURVE.rho(invented.weights_gmse(representation))) * ends[dimension]

    return rho


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig2a, ending(1.0, 0.9, 0.7))


def test_where_the_claims_are_true(seen):
    found = invented.verdicts(fig2a, seen)
    assert found == dict.fromkeys(found, "reproduced")


def test_where_dimension_4_ends_highest():
    found = invented.judged(fig2a, invented.evidence(fig2a, ending(1.0, 0.8, 1.1)))
    assert found["lsat-of-4-below-dense"].verdict == found["lsat-of-4-below-2"].verdict == "not reproduced"
    assert found["lsat-of-2-below-dense"].verdict == "reproduced"


def test_where_curves_do_not_bend_the_order_of_their_ends_is_told_alone():
    def rho(representation):
        straight = -math.log(float(invented.weights_gmse(representation))) / 8
        return straight * ending(1.0, 0.9, 0.7)(representation) / ending(1.0, 1.0, 1.0)(representation)

    found = invented.judged(fig2a, invented.evidence(fig2a, rho))
    assert found["lsat-of-4-below-2"].verdict == "reproduced"
    for dimension in (2, 4):
        assert "does not bend" in found[f"lsat-of-{dimension}-below-dense"].reason


def test_where_a_dimension_has_no_curve():
    """Every other codebook of dimension 2 is worth half."""
    halved = {"higgs-d2-n8", "higgs-d2-n64"}

    def rho(representation):
        half = label(representation.weights.format) in halved
        return ending(1.0, 0.9, 0.8)(representation) * (0.5 if half else 1.0)

    found = invented.verdicts(fig2a, invented.evidence(fig2a, rho))
    assert found["one-curve-dimension-2"] == found["one-shape"] == "not reproduced"
    assert found["one-curve-dimension-1"] == "reproduced"


def test_without_dimension_4_only_curves_of_the_others_are_decided():
    kept = invented.evidence(
        fig2a, ending(1.0, 0.9, 0.7), keep=lambda run: "-d4-" not in label(run.representation.weights.format)
    )
    found = invented.judged(fig2a, kept)
    assert found["one-curve-dimension-2"].verdict == "reproduced"
    assert "higgs-d4-n16" in found["lsat-of-4-below-2"].reason
    assert invented.draw(fig2a, kept)


def test_the_figure(seen):
    assert invented.draw(fig2a, seen)
