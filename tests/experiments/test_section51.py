"""Claims of Section 5.1 on rows where they are true, where they are false, and where runs are missing."""

import numpy as np
import pytest
from capscale.experiments import section51
from support import invented

PER_BIT = {1: 0.2, 2: 0.29, 3: 0.25, 4: 0.21, 8: 0.12}


def by_bits(per_bit):
    return lambda representation: per_bit[int(representation.weights.format.bits)] * representation.weights.format.bits


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(section51, by_bits(PER_BIT))


def test_where_two_bits_are_best(seen):
    found = invented.judged(section51, seen)["two-bits"]
    assert found.verdict == "reproduced"
    assert found.estimate.value == pytest.approx(np.log(0.29 / 0.25), abs=0.03)
    assert "at 2 bits" in found.estimate.note


def test_where_four_bits_are_best():
    found = invented.judged(section51, invented.evidence(section51, by_bits(PER_BIT | {2: 0.15, 3: 0.2, 4: 0.24})))[
        "two-bits"
    ]
    assert found.verdict == "not reproduced"
    assert "at 4 bits" in found.estimate.note


def test_the_printed_numbers_speak_for_themselves():
    """Figure 7 has .57 / 2 ahead of .75 / 3; Figure 6 .74 / 3 ahead of .45 / 2; Figure 9 .85 / 4 ahead of .05 / 2."""
    found = invented.judged(section51, type(invented.evidence(section51, by_bits(PER_BIT)))((), "nothing", "nano"))
    assert {name: j.verdict for name, j in found.items()} == {
        "two-bits-printed-6": "not reproduced",
        "two-bits-printed-7": "reproduced",
        "two-bits-printed-9": "not reproduced",
        "two-bits": "undecided at this scale",
    }
    assert found["two-bits-printed-7"].estimate.value == pytest.approx(np.log(0.57 / 2 / 0.25))
    assert found["two-bits-printed-7"].estimate.high == pytest.approx(np.log(0.575 / 2 / (0.745 / 3)))
    assert "none of its runs" in found["two-bits"].reason


def test_the_figure(seen):
    assert invented.draw(section51, seen)
