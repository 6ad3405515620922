"""Claims of Figure 1a on rows where they are true, where they are false, and where runs are missing."""

import numpy as np
import pytest
from capscale.experiments import fig1a
from support import invented

from capscale.capacity import KUMAR, TANH, Capacity, Factor
from capscale.formats.catalog import label

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def true(representation):
    """QuEST's integers on the curve, learned steps on .8 of it."""
    learned = label(representation.weights.format).startswith("lsq")
    return float(CURVE.rho(invented.weights_gmse(representation))) * (0.8 if learned else 1.0)


def by_bits(representation):
    """Kumar's form, for learned steps as well."""
    bits = np.array([representation.weights.format.bits])
    return float(np.exp(KUMAR.log_rho({"gamma": 2.4}, Factor(np.nan * bits, bits, np.nan * bits), np.nan))[0])


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig1a, true)


def test_where_the_claims_are_true(seen):
    found = invented.verdicts(fig1a, seen)
    assert found == dict.fromkeys(found, "reproduced")


def test_where_kumars_form_is_true():
    found = invented.verdicts(fig1a, invented.evidence(fig1a, by_bits, scatter=0.003))
    assert found["tanh-below-kumar"] == found["kumar-low-at-high-bits"] == "not reproduced"


def test_learned_steps_that_reach_dense_do_not_saturate():
    seen = invented.evidence(fig1a, lambda r: float(CURVE.rho(invented.weights_gmse(r))))
    found = invented.judged(fig1a, seen)["lsat-of-lsq"]
    assert found.verdict != "reproduced"
    assert found.estimate.value > 0.95


def test_learned_steps_that_lose_by_more_bits_follow_no_curve():
    shares = {"lsq2": 0.3, "lsq3": 0.36, "lsq4": 0.38, "lsq8": 0.1}
    rho = lambda r: shares.get(label(r.weights.format)) or true(r)  # noqa: E731
    found = invented.judged(fig1a, invented.evidence(fig1a, rho))
    assert found["lsq-follows"].verdict == "not reproduced"
    assert "ended on a bound" in found["lsat-of-lsq"].estimate.missing


def test_without_integers_only_the_claim_of_learned_steps_is_decided():
    found = invented.judged(fig1a, invented.evidence(fig1a, true, keep=lambda run: run.representation.hadamard is None))
    assert {j.verdict for name, j in found.items() if "lsq" not in name} == {"undecided at this scale"}
    assert "int8" in found["tanh-follows"].reason
    assert found["lsat-of-lsq"].verdict == "reproduced"


def test_the_figure(seen):
    assert invented.draw(fig1a, seen)
