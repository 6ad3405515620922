"""Claims of Theorem 1 on rows where loss rises with the distance, where it falls, and where runs are missing."""

import numpy as np
import pytest
from capscale.experiments import theorem1
from support import invented

from capscale.estimator_names import estimator_name


def by_error(representation):
    return float(np.exp(-3.0 * invented.weights_gmse(representation)))


def against_error(representation):
    return float(np.exp(3.0 * invented.weights_gmse(representation) - 2.0))


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(theorem1, by_error)


def test_where_loss_rises_with_the_distance(seen):
    found = invented.judged(theorem1, seen)
    assert {j.verdict for j in found.values()} == {"reproduced"}
    assert "int4 0.107" in found["order-trust"].estimate.note  # the root of its GMSE, which is what was invented


def test_where_it_falls():
    found = invented.verdicts(theorem1, invented.evidence(theorem1, against_error))
    assert set(found.values()) == {"not reproduced"}


def test_equal_losses_decide_nothing():
    found = invented.verdicts(theorem1, invented.evidence(theorem1, lambda r: 0.6, seed=3))
    assert set(found.values()) == {"undecided at this scale"}


def test_distances_that_scatter_as_far_as_they_differ_decide_nothing():
    random = np.random.default_rng(0)
    columns = lambda run: {"weights_realised_error": 0.01 * np.exp(random.normal())}  # noqa: E731
    found = invented.judged(theorem1, invented.evidence(theorem1, by_error, columns=columns))
    assert all(j.estimate.high - j.estimate.low > 0.5 for j in found.values())


def test_without_runs_of_an_estimator_its_order_is_undecided():
    kept = invented.evidence(
        theorem1, by_error, keep=lambda run: estimator_name(run.representation.weights.backward()) != "fw"
    )
    found = invented.judged(theorem1, kept)
    assert found["order-trust"].verdict == "reproduced"
    assert found["order-forward-mask"].verdict == "undecided at this scale"
    assert "top25" in found["order-forward-mask"].reason


def test_one_seed_tells_no_scatter():
    found = invented.judged(theorem1, invented.evidence(theorem1, by_error, keep=lambda run: run.seed == 0))
    assert {j.verdict for j in found.values()} == {"undecided at this scale"}
    assert "how far seeds scatter" in found["order-rbbm"].reason


def test_the_figure(seen):
    assert invented.draw(theorem1, invented.evidence(theorem1, by_error, keep=lambda run: False))
    assert invented.draw(theorem1, seen)
