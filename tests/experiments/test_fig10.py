"""Claims of Figure 10a on rows where they are true, where they are false, and where runs are missing."""

import numpy as np
import pytest
from capscale.experiments import fig10
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.formats.catalog import label

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def by_error_on(distribution):
    """The curve of Table 3 over errors on data of a distribution."""
    return lambda r: float(CURVE.rho(fig10.error(label(r.weights.format), distribution)))


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig10, by_error_on("Gaussian"))


def test_where_capacity_follows_the_gaussian_error(seen):
    found = invented.judged(fig10, seen)
    for name, judgement in found.items():
        if name.startswith("monotone"):
            assert judgement.verdict == "reproduced", name
        if name.startswith("fits-worse"):
            assert judgement.estimate.value > 0, name


@pytest.mark.ci
def test_where_capacity_follows_the_laplace_error():
    found = invented.judged(fig10, invented.evidence(fig10, by_error_on("Laplace"), scatter=0.003))
    assert found["fits-worse-laplace"].verdict == "not reproduced"


def test_where_capacity_rises_with_the_error():
    rises = invented.evidence(fig10, lambda r: float(0.4 + 0.5 * invented.weights_gmse(r)))
    found = invented.verdicts(fig10, rises)
    assert {v for name, v in found.items() if name.startswith("monotone")} == {"not reproduced"}


def test_spreads_are_those_of_the_errors():
    assert fig10.spread(("int8", "int1"), "Gaussian") == pytest.approx(np.log(0.36338 / 0.0000854), abs=0.1)
    errors = [fig10.error("top50", name) for name in fig10.DISTRIBUTIONS]
    assert len(set(errors)) == 4
    assert errors[0] == pytest.approx(0.0716, abs=1e-3)


def test_without_runs_only_what_is_computed_is_judged():
    found = invented.judged(fig10, invented.evidence(fig10, by_error_on("Gaussian"), keep=lambda run: False))
    told = {name for name, j in found.items() if not j.estimate.missing}
    assert told == {"widest-integers", "widest-sparsities", "printed-gaussian-best"}


def test_without_sparse_runs_orders_are_undecided_and_the_formats_named():
    kept = invented.evidence(
        fig10, by_error_on("Gaussian"), keep=lambda run: "top" not in label(run.representation.weights.format)
    )
    found = invented.judged(fig10, kept)
    assert found["monotone-laplace"].verdict == "undecided at this scale"
    assert "top10" in found["monotone-laplace"].reason


def test_the_figure(seen):
    assert invented.draw(fig10, invented.evidence(fig10, by_error_on("Gaussian"), keep=lambda run: False))
    assert invented.draw(fig10, seen)
