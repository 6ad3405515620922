"""Claims of Table 2: the ladder as it stands, and one that departs from the print."""

from dataclasses import replace

import pytest
from capscale.experiments import tab2
from support import invented

from capscale.analysis.claims import judge
from capscale.models.ladder import PAPER


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(tab2, lambda r: 1.0)


def test_the_ladder_is_as_printed_whatever_was_trained(seen):
    nothing = invented.evidence(tab2, lambda r: 1.0, keep=lambda run: False)
    for evidence in (seen, nothing):
        found = invented.judged(tab2, evidence)
        assert {j.verdict for j in found.values()} == {"reproduced"}
        assert [j.estimate.value for j in found.values()] == [12, 4, 16]


@pytest.mark.parametrize("name", ["shapes", "rates"])
def test_a_ladder_that_departs_is_not_reproduced_and_the_cell_named(name, monkeypatch, seen):
    other = replace(
        PAPER,
        sizes=PAPER.sizes | {"50M": replace(PAPER.sizes["50M"], layers=8)},
        learning_rates=PAPER.learning_rates | {"200M": 6e-4},
    )
    monkeypatch.setattr(tab2, "PAPER", other)
    (claim,) = [claim for claim in tab2.CLAIMS if claim.name == name]
    judgement = judge(claim, tab2.estimates(seen)[name])
    assert judgement.verdict == "not reproduced"
    assert judgement.estimate.value == claim.paper - 1
    assert ("50M layers 8, printed 7" if name == "shapes" else "200M learning_rate 0.0006") in judgement.estimate.note


def test_a_size_that_the_ladder_is_without_counts_as_unequal():
    other = replace(PAPER, sizes={k: v for k, v in PAPER.sizes.items() if k != "30M"})
    assert sum(ours != value for ours, value in tab2.cells(other).values()) == 3


def test_the_figure(seen):
    assert invented.draw(tab2, invented.evidence(tab2, lambda r: 1.0, keep=lambda run: False))
    assert invented.draw(tab2, seen)
