"""Claims of Figures 5d and 11 on rows where they are true, where they are false, and where runs are missing."""

import pytest
from capscale.experiments import fig5
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.representation import Representation, operand

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))
SHARES = {"RBBM": 1.0, "magnitude": 0.75, "RigL": 0.6, "RigL, every step": 0.55, "GMP": 0.9, "GMP with RBBM": 0.9}


def method_of(representation):
    return next(
        method
        for method in fig5.METHODS
        if representation in [fig5._representation(method, percent) for percent in fig5.PERCENT]
    )


def by_method(shares):
    """Capacity by the error of the sparsity, times a share of each method."""

    def rho(representation):
        density = representation.weights.format.density
        error = invented.weights_gmse(Representation(operand(f"top{round(100 * (1 - density))}")))
        return (0.4 + 0.6 * float(CURVE.rho(error))) * shares[method_of(representation)]

    return rho


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig5, by_method(SHARES))


def test_where_the_claims_are_true(seen):
    found = invented.verdicts(fig5, seen)
    assert found == dict.fromkeys(found, "reproduced")


def test_where_they_are_reversed():
    reversed_shares = {
        "RBBM": 0.6, "magnitude": 0.7, "RigL": 0.9, "RigL, every step": 1.0, "GMP": 0.7, "GMP with RBBM": 0.9
    }  # fmt: skip
    found = invented.verdicts(fig5, invented.evidence(fig5, by_method(reversed_shares)))
    assert found == dict.fromkeys(found, "not reproduced")


def test_equal_methods_are_not_told_apart():
    found = invented.judged(fig5, invented.evidence(fig5, by_method(dict.fromkeys(SHARES, 0.8)), scatter=0.016))
    assert {j.verdict for name, j in found.items() if "rigl" in name}.isdisjoint({"reproduced"})
    assert found["rbbm-by-a-fifth-somewhere"].verdict == "not reproduced"


def test_one_sparsity_without_runs_is_left_out_and_more_are_not():
    def without(*percent):
        gone = [fig5._representation("RigL", each) for each in percent]
        return invented.judged(
            fig5, invented.evidence(fig5, by_method(SHARES), keep=lambda run: run.representation not in gone)
        )

    one = without(90)["rigl-below-rbbm"]
    assert one.verdict == "reproduced"
    assert "rigl90" in one.estimate.note
    two = without(70, 90)["rigl-below-rbbm"]
    assert two.verdict == "undecided at this scale"
    assert "3 pairs measured, 4 needed" in two.reason


def test_the_figure(seen):
    assert invented.draw(fig5, seen)
