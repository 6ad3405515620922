"""Claims of Figures 4a and 4b on rows where they are true, where they are false, and where runs are missing."""

import numpy as np
import pytest
from capscale.experiments import fig4
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.formats.catalog import label

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def true(representation):
    return float(CURVE.rho(invented.weights_gmse(representation)))


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig4, true, scatter=0.002)


def test_where_capacity_follows_the_error(seen):
    found = invented.judged(fig4, seen)
    decided = {name: j.verdict for name, j in found.items()}
    assert decided == dict.fromkeys(found, "reproduced")
    for bits in fig4.BITS:
        paper = next(c.paper for c in fig4.CLAIMS if c.name == f"smaller-groups-{bits}-bit")
        assert found[f"smaller-groups-{bits}-bit"].estimate.value == pytest.approx(paper, abs=0.02)
        paper = next(c.paper for c in fig4.CLAIMS if c.name == f"no-outliers-{bits}-bit")
        assert found[f"no-outliers-{bits}-bit"].estimate.value == pytest.approx(paper, abs=0.02)


def test_small_effects_are_undecided_with_the_scatter_of_nano_runs():
    found = invented.judged(fig4, invented.evidence(fig4, true, scatter=0.016))
    assert found["smaller-groups-4-bit"].verdict == found["no-outliers-4-bit"].verdict == "undecided at this scale"
    assert found["no-outliers-2-bit"].estimate.value < 0


def test_where_groups_hurt_and_outliers_help():
    def rho(representation):
        name = label(representation.weights.format)
        return true(representation) * (0.8 if "-g" in name else 1.4 if "outliers" in name else 1.0)

    found = invented.verdicts(fig4, invented.evidence(fig4, rho))
    assert found == dict.fromkeys(found, "not reproduced")


def test_outliers_are_compared_with_integers_of_as_many_bits(seen):
    """On the line of ln rho through INT2 and INT3, not with INT2."""
    integers = fig4.measured(seen, fig4._integers())
    line = fig4._line(np.array([2.0, 2.5, 3.0]), integers)
    assert line[[0, 2]] == pytest.approx(integers.log_rho[:2])
    assert line[1] == pytest.approx(integers.log_rho[:2].mean(axis=0))


def test_without_integers_of_more_bits_outliers_are_undecided():
    def kept(run):
        return label(run.representation.weights.format) not in ("int5", "int6")

    found = invented.judged(fig4, invented.evidence(fig4, true, keep=kept, scatter=0.002))
    assert "no integers about" in found["no-outliers-4-bit"].reason
    assert found["no-outliers-2-bit"].verdict == "reproduced"


def test_the_figure(seen):
    assert invented.draw(fig4, seen)


def test_without_runs_the_figure_has_the_printed_numbers_alone(seen):
    drawn = fig4.figure(type(seen)((), "nothing", "paper"))
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["INT, printed in Figure 6"]
