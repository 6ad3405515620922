"""Claims of Figure 3 on rows where they are true, where they are false, and where runs are missing."""

import pytest
from capscale.experiments import fig3
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.formats.catalog import label

CURVE = Capacity(TANH, (("F", 0.5), ("C", 1.5)))


def true(representation):
    return float(CURVE.rho(invented.weights_gmse(representation)))


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig3, true)


def test_where_the_claims_are_true(seen):
    found = invented.verdicts(fig3, seen)
    assert found == dict.fromkeys(found, "reproduced")


def test_where_floats_are_worth_more_the_larger_their_error():
    """And E2M1 a third less than INT4; 4 bits more than 6, and 6 more than 8."""

    def rho(representation):
        name, error = label(representation.weights.format), invented.weights_gmse(representation)
        if name in fig3.FORMATS[4]:
            return {"int4": 1.0, "e2m1": 0.7, "e1m2": 1.1, "e3m0": 1.3}[name]
        return 0.6 + 20 * error if name in fig3.FORMATS[6] else 0.4 + 10 * error

    found = invented.verdicts(fig3, invented.evidence(fig3, rho))
    assert {n: v for n, v in found.items() if n != "order-4-bit"} == dict.fromkeys(
        set(found) - {"order-4-bit", "band-4-bit"}, "not reproduced"
    ) | {"band-4-bit": found["band-4-bit"]}
    assert found["band-4-bit"] != "not reproduced"
    assert found["order-4-bit"] == "not reproduced"


def test_without_formats_of_eight_bits_what_is_about_them_is_undecided():
    seen = invented.evidence(
        fig3, true, keep=lambda run: label(run.representation.weights.format) not in fig3.FORMATS[8]
    )
    found = invented.judged(fig3, seen)
    about = {"order-8-bit", "6-not-above-8", "band-8-bit"}
    assert {name for name, j in found.items() if j.verdict == "undecided at this scale"} == about
    assert all("e4m3" in found[name].reason for name in about)


def test_the_figure(seen):
    assert invented.draw(fig3, seen)
