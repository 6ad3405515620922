"""Effects of claims by invented capacities: what is measured, what is left out, and how far a curve misses."""

import numpy as np
import pytest
from support import synthetic

from capscale.analysis.claims import Estimate
from capscale.analysis.effects import Measured, difference, differences, estimates_of, measured, rank_correlations
from capscale.analysis.evidence import Evidence, interval
from capscale.analysis.misfits import misfit
from capscale.analysis.operands import gaussian_error
from capscale.analysis.table import make_table
from capscale.capacity import KUMAR, TANH, TANH_SATURATING
from capscale.errors import UserError
from capscale.representation import Representation, operand

INTEGERS = ("int1", "int2", "int3", "int4", "int5", "int6", "int8")
RHO = {"int8": 0.95, "int4": 0.8, "int2": 0.45}
ROWS = {r.curve: r for r in make_table(synthetic.runs(dict.fromkeys(INTEGERS, 0.5)), "test").rows}


def plain(name):
    return Representation(operand(name))


@pytest.fixture(scope="module")
def evidence():
    estimators = {"weights_estimator": "trust", "activations_estimator": "straight-through"}
    records = [r | estimators | {"seed": seed} for seed in (0, 1) for r in synthetic.runs(RHO, noise=1e-6)]
    return Evidence(tuple(records), "invented", "nano")


def test_a_difference_is_the_ratio_of_two_capacities(evidence):
    values = difference(evidence, plain("int4"), plain("int2"))
    assert values[0] == pytest.approx(np.log(0.8 / 0.45), abs=0.03)  # of the interpolated dense curve
    assert len(values) > 100
    estimate = interval(values)
    assert estimate.low <= estimate.value <= estimate.high


def test_pairs_without_runs_are_left_out_and_named(evidence):
    pairs = [(plain("int8"), plain("int4")), (plain("int3"), plain("int2"))]
    values, note = differences(evidence, pairs)
    assert values.shape[0] == 1
    assert "int3" in note
    with pytest.raises(UserError, match="1 pairs measured, 2 needed: int3"):
        differences(evidence, pairs, least=2)


def test_measured_keeps_what_has_a_capacity(evidence):
    found = measured(evidence, [plain(name) for name in ("int8", "int3", "int4", "int2")], least=3)
    assert found.rho[:, 0] == pytest.approx([0.95, 0.8, 0.45], rel=0.03)
    assert found.gmse == pytest.approx([gaussian_error(name) for name in RHO])
    assert "int3" in found.note
    assert found.only(found.gmse > 0.1).representations == (plain("int2"),)
    with pytest.raises(UserError, match="3 formats measured, 4 needed"):
        measured(evidence, [plain(name) for name in ("int8", "int3", "int4", "int2")], least=4)


def test_a_claim_without_runs_is_missing_for_its_reason(evidence):
    def absent():
        return interval(difference(evidence, plain("int3"), plain("int2")))

    found = estimates_of({"there": lambda: Estimate.exact(1.0), "absent": absent})
    assert found["there"].value == 1.0
    assert "int3" in found["absent"].missing


def test_rank_correlations_are_of_every_resample():
    capacity = np.array([[0.9, 0.5], [0.5, 0.9], [0.2, 0.95]])
    assert rank_correlations(np.array([0.01, 0.1, 0.3]), capacity) == pytest.approx([1.0, -1.0])
    with pytest.raises(UserError, match="2 formats"):
        rank_correlations(np.array([0.01, 0.1]), capacity[:2])


def invented(rho, scatter, seed, resamples=400):
    """Capacities with scatter of ln rho, and resamples as far from them as they are from the truth."""
    random = np.random.default_rng(seed)
    estimate = np.log(rho) + random.normal(0, scatter, len(rho))
    draws = estimate[:, None] + random.normal(0, scatter, (len(rho), resamples))
    rows = tuple(ROWS[name] for name in INTEGERS)
    return Measured(tuple(map(plain, INTEGERS)), rows, np.concatenate([estimate[:, None], draws], axis=1), "")


def truth(name):
    return synthetic.rho_of(name)


def test_without_scatter_the_misfit_is_the_departure():
    bump = np.array([0.0, 0.05, -0.05, 0.05, 0.0, -0.05, 0.05])
    rho = np.array([truth(name) for name in INTEGERS]) + bump
    found = misfit(invented(rho, 1e-9, 0, 10), TANH)
    left = rho - [found.law.of(ROWS[name]) for name in INTEGERS]
    assert found.rmse == pytest.approx(np.sqrt(np.sum(left**2) / 5))
    assert found.departure == pytest.approx(found.rmse**2, rel=1e-3)
    assert found.scatter < 1e-6


@pytest.mark.parametrize("shift", [0.0, 0.06])
def test_departures_are_unbiased_and_their_intervals_cover(shift):
    """Of a curve that is right, and of one that misses by a zigzag."""
    rho = np.array([truth(name) for name in INTEGERS]) + shift * np.array([0, 1, -1, 1, -1, 1, -1])
    true = misfit(invented(rho, 1e-9, 0, 10), TANH).departure[0]
    found = [misfit(invented(rho, 0.04, seed), TANH).departure for seed in range(60)]
    values = np.array([d[0] for d in found])
    assert np.mean(values) == pytest.approx(true, abs=3 * np.std(values) / np.sqrt(60))
    inside = [np.quantile(d[1:], 0.025) <= true <= np.quantile(d[1:], 0.975) for d in found]
    assert np.mean(inside) >= 0.85  # 60 intervals of .95: fewer are as unlikely as .003


def test_a_form_that_is_wrong_departs_further():
    rho = np.array([truth(name) for name in INTEGERS])
    found = invented(rho, 0.02, 3)
    assert misfit(found, KUMAR).departure[0] > 5 * abs(misfit(found, TANH).departure[0])


def test_a_curve_needs_more_formats_than_numbers():
    found = invented(np.array([truth(name) for name in INTEGERS]), 0.02, 0)
    with pytest.raises(UserError, match="tanh-sat: 3 formats"):
        misfit(found.only(np.arange(7) < 3), TANH_SATURATING)
