"""Claims of Table 4 on rows where they are true, where they are false, where runs are missing, and on the print."""

import numpy as np
import pytest
from capscale.experiments import tab4
from support import invented

from capscale.analysis.claims import judge
from capscale.analysis.misfits import through
from capscale.analysis.rounded import rounded
from capscale.capacity import LOGISTIC, LOGISTIC_ANCHORED, TANH, Capacity

CURVE = Capacity(TANH, (("F", 0.62), ("C", 0.75)))
LOW = Capacity(LOGISTIC, (("exponent", 0.9), ("scale", 1.0)))
"""It ends at 1/2 where the error is 1, which the anchored one cannot."""
ANCHORED = Capacity(LOGISTIC_ANCHORED, (("exponent", 0.5), ("scale", 0.2)))


def following(curve):
    return lambda representation: float(curve.rho(invented.weights_gmse(representation)))


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(tab4, following(CURVE))


@pytest.mark.ci
def test_curves_near_each_other_are(seen):
    found = invented.judged(tab4, seen)
    assert found["tanh-near-decoupled"].verdict == "reproduced"
    assert "RMSE in nats on 68 runs: decoupled 0.00" in found["tanh-near-decoupled"].estimate.note


def test_where_the_free_logistic_is_true():
    found = invented.verdicts(tab4, invented.evidence(tab4, following(LOW), scatter=0.004))
    assert found["anchored-worse"] == "reproduced"


def test_where_the_anchored_one_is_true():
    found = invented.verdicts(tab4, invented.evidence(tab4, following(ANCHORED), scatter=0.001))
    assert found["anchored-worse"] == "not reproduced"
    assert found["logistic-near-tanh"] == "not reproduced"


def test_without_runs_the_print_is_judged_alone():
    found = invented.judged(tab4, invented.evidence(tab4, following(CURVE), keep=lambda run: False))
    for name, judgement in found.items():
        assert bool(judgement.estimate.missing) != name.startswith("printed"), name


@pytest.mark.ci
def test_printed_capacities_of_another_curve_would_be_judged_otherwise(monkeypatch):
    names = [f"top{percent}" for percent in range(10, 100, 10)]
    claims = {claim.name: claim for claim in tab4.CLAIMS}
    nothing = invented.evidence(tab4, following(CURVE), keep=lambda run: False)
    verdicts = {}
    for curve in (LOW, ANCHORED):
        error = {name: tab4.rounded({name: 0.5}, "x").gmse[0] for name in names}
        every = rounded({name: round(float(curve.rho(error[name])), 2) for name in names}, "invented")
        monkeypatch.setattr(tab4, "printed_sparsities", lambda every=every: every)
        tab4.printed_errors.cache_clear()
        verdicts[curve.form.name] = judge(
            claims["printed-anchored-worse"], tab4.estimates(nothing)["printed-anchored-worse"]
        ).verdict
    tab4.printed_errors.cache_clear()
    assert verdicts == {"logistic": "reproduced", "logistic-1-0": "not reproduced"}


def test_printed_numbers_may_be_anything_that_rounds_to_them():
    found = rounded({"top50": 0.72, "int4": 0.9, "int2": 0.45}, "invented")
    assert found.rho[:, 0] == pytest.approx([0.72, 0.9, 0.45])
    assert np.all(np.round(found.rho[:, 1:], 2) == pytest.approx(np.tile([[0.72], [0.9], [0.45]], (1, 1000))))
    assert np.std(found.rho[0, 1:]) == pytest.approx(0.01 / np.sqrt(12), rel=0.1)
    assert through(found, TANH).draws.shape[1] == 2


def test_the_figure(seen):
    assert invented.draw(tab4, invented.evidence(tab4, following(CURVE), keep=lambda run: False))
    assert invented.draw(tab4, seen)
