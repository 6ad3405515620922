"""Sentences of a report on weights that do not feel their format's GMSE: said where it is true, and only there."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from capscale.analysis.capacities import CapacityRow
from capscale.analysis.sentences import summary, weights
from capscale.analysis.sentences.rule import say
from capscale.analysis.uncertainty import Interval
from capscale.realised import UNTOLD, Realised

SOUND = Realised(gmse=0.1, error=0.1, error_end=0.11, pass_rate=0.9, pass_rate_end=0.9, pass_rate_gaussian=0.92)
FROZEN = Realised(gmse=0.363, error=0.15, error_end=0.079, pass_rate=0.2, pass_rate_end=0.09, pass_rate_gaussian=0.575)
SPREAD = SOUND._replace(gmse=0.07, error_end=0.13)
DECAYED = SOUND._replace(error_end=0.0)


def said(*told):
    """Sentences, by rule, of a study whose formats' weights tell this."""
    row = CapacityRow(
        curve="", kind="integer", gmse=0.1, why_not="", rho=Interval(0.5, 0.4, 0.6), deviation=0.1, joint=0.5,
        over_E=(0.5, 0.5), law=0.5, kind_law=0.5, in_law=True, runs=4,
    )  # fmt: skip
    rows = [replace(row, curve=f"format{i}", weights=each) for i, each in enumerate(told)]
    return {s.rule: s.text for s in say(weights.RULES, SimpleNamespace(capacities=tuple(rows)))}


@pytest.mark.parametrize(
    ("told", "rules"),
    [
        ((SOUND, SOUND), {"weights as Gaussian"}),
        ((SOUND, UNTOLD), {"weights as Gaussian"}),
        ((SOUND, SPREAD), {"weights not as Gaussian"}),
        ((DECAYED,), {"weights not as Gaussian"}),
        ((SOUND, FROZEN), {"weights not as Gaussian", "closed masks"}),
        ((SOUND._replace(pass_rate_end=0.4),), {"weights as Gaussian", "closed masks"}),
        ((UNTOLD, UNTOLD), set()),
        ((), set()),
    ],
)
def test_each_sentence_where_it_is_true(told, rules):
    found = said(*told)
    assert set(found) == rules
    assert not any("nan" in text for text in found.values())


def test_sentences_name_the_formats_and_both_numbers():
    found = said(SOUND, FROZEN, SPREAD, UNTOLD)
    assert found["weights not as Gaussian"].endswith(
        "they realise format1 0.079 for 0.36 (0.22 times) and format2 0.13 for 0.07 (1.9 times)."
    )
    assert found["closed masks"].endswith("there pass format1 9% of the gradients (of Gaussian weights: 57%).")
    assert "of 2 formats is GMSE to within a factor of 1.3" in said(SOUND, SOUND)["weights as Gaussian"]


def test_they_are_part_of_what_a_report_says():
    assert set(weights.RULES) <= set(summary.RULES)
