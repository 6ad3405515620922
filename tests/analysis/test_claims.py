"""The rule by which a claim is judged, on invented effects: present, absent, reversed, underpowered."""

import math

import numpy as np
import pytest

from capscale.analysis.claims import TWO_SIDED, Claim, Estimate, judge
from capscale.errors import UserError

ABOVE = Claim(
    "above", "RBBM is worth more.", "Figure 5d", "difference of ln rho", (0.0, math.inf), "its sign", 0.2, null=0.0
)
EQUAL = Claim("equal", "Both are worth the same.", "Figure 3", "difference of ln rho", (-0.1, 0.1), "10 %", 0.0)
NUMBER = Claim("number", "F is .41.", "Table 3", "F", (0.35, 0.47), "its deviation, thrice", 0.41)


def found(value, deviation):
    return Estimate(value, value - TWO_SIDED * deviation, value + TWO_SIDED * deviation)


@pytest.mark.parametrize(
    ("claim", "estimate", "verdict"),
    [
        (ABOVE, found(0.2, 0.03), "reproduced"),  # present
        (ABOVE, found(0.01, 0.03), "undecided at this scale"),  # smaller than can be told from none
        (ABOVE, found(-0.2, 0.03), "not reproduced"),  # reversed
        (ABOVE, found(0.5, 0.2), "undecided at this scale"),  # an effect, by a test that could not have told .2
        (ABOVE, found(-0.9, 0.2), "not reproduced"),  # reversed, whatever the power
        (EQUAL, found(0.01, 0.02), "reproduced"),
        (EQUAL, found(0.3, 0.02), "not reproduced"),
        (EQUAL, found(0.08, 0.02), "undecided at this scale"),  # the interval ends at .12
        (EQUAL, found(0.0, 0.2), "undecided at this scale"),  # nothing is known, which is not equality
        (NUMBER, Estimate.exact(0.41), "reproduced"),
        (NUMBER, Estimate.exact(0.5), "not reproduced"),
        (NUMBER, Estimate(missing="no runs"), "undecided at this scale"),
    ],
)
def test_verdicts(claim, estimate, verdict):
    assert judge(claim, estimate).verdict == verdict


def test_a_claim_about_the_papers_scale_is_never_decided_below_it():
    claim = Claim("E", "E is 1.3.", "Table 3", "E", (0.8, 1.8), "its deviation", 1.3, beyond="it belongs to C4")
    for estimate in (found(1.3, 0.01), found(9.0, 0.01)):
        judgement = judge(claim, estimate)
        assert (judgement.verdict, judgement.reason) == ("undecided at this scale", "it belongs to C4")


@pytest.mark.parametrize(("claim", "deviation"), [(ABOVE, 0.06), (ABOVE, 0.1), (EQUAL, 0.03), (EQUAL, 0.045)])
def test_power_is_the_share_of_simulated_estimates_that_show_the_claim(claim, deviation):
    draws = np.random.default_rng(0).normal(claim.paper, deviation, 40_000)
    low, high = draws - TWO_SIDED * deviation, draws + TWO_SIDED * deviation
    shown = low > 0 if claim.null is not None else (low >= -0.1) & (high <= 0.1)
    assert claim.power(deviation) == pytest.approx(np.mean(shown), abs=0.01)


def test_a_test_of_no_chance_has_power_one():
    assert ABOVE.power(0.0) == 1.0
    assert judge(ABOVE, Estimate.exact(0.01)).power == 1.0
    assert math.isnan(judge(ABOVE, Estimate(missing="no runs")).power)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accepted": (1.0, 0.0)}, "lowest and a highest"),
        ({"paper": 3.0, "accepted": (0.0, 1.0)}, "not in accepted"),
        ({"null": 0.1, "accepted": (0.0, 1.0)}, "null=0.1 lies in"),
        ({"null": 0.2, "accepted": (0.2, 1.0)}, "for equality drop null"),
    ],
)
def test_claims_that_are_none(change, message):
    fields = {"accepted": (0.0, 1.0), "paper": 0.2, "null": None} | change
    with pytest.raises(UserError, match=message):
        Claim("x", "x.", "x", "x", why="x", **fields)


def test_an_estimate_lies_in_its_interval():
    with pytest.raises(UserError, match="does not lie in its interval"):
        Estimate(2.0, 0.0, 1.0)
