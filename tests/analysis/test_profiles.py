"""Profiles whose inner fits stop early, as they did, and what becomes of them."""

import numpy as np
import pytest
from support.synthetic import TRUTH, rho_of, runs, write_sweep

from capscale.analysis import inner_fits
from capscale.analysis.fit import Fit, Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.profiles import Profile, profile, profiles
from capscale.analysis.rows import read
from capscale.analysis.table import make_table


@pytest.fixture(scope="module")
def rough(tmp_path_factory):
    """A noisy sweep on which inner fits from the fit's optimum alone stop in other valleys."""
    return fit(read(write_sweep(tmp_path_factory.mktemp("rough"), noise=0.03, seed=4)).plain(), LAWS["tanh"])


def roughness(found: Profile) -> float:
    """The largest fall of the statistic on the way out from the estimate, on either side."""
    falls = [0.0]
    for side in (found.value < found.estimate, found.value > found.estimate):
        order = np.argsort(np.abs(found.value[side] - found.estimate))
        falls += (-np.diff(found.statistic[side][order])).tolist()
    return max(falls)


def test_a_profile_that_used_to_spike_rises_to_both_sides(rough, monkeypatch):
    """Without a second look from neighbours, too: inner fits ended early where a bound cut the solver's step short."""
    assert max(roughness(profile(rough, name)) for name in ("alpha", "C")) < 0.02
    monkeypatch.setattr(inner_fits, "_from_neighbours", lambda fit, found, noise: found)
    assert roughness(profile(rough, "alpha")) < 0.02


def test_no_profile_goes_below_the_optimum(rough):
    for found in profiles(rough).values():
        assert found.statistic.min() >= 0
        assert found.below < 0.1


def crippled(value: float, monkeypatch, *, always: bool):
    """A solver that stops at once, far from the optimum, where alpha is held near `value`; cold starts only, or all."""
    solve = Fit.solve

    def stopping(self, batch, *, warm=False):
        solved = solve(self, batch, warm=warm)
        held = (batch.lower[:, 2] == batch.upper[:, 2]) & (np.abs(batch.lower[:, 2] - value) < 0.01)
        bad = held & (always or not warm)
        objective = np.where(bad, solved.objective + 1.0, solved.objective)
        z = np.where(bad[:, None], batch.start, solved.z)
        return solved._replace(z=z, objective=objective, converged=solved.converged & ~bad)

    monkeypatch.setattr(Fit, "solve", stopping)


def test_a_failed_inner_fit_is_repeated_from_its_neighbours(rough, monkeypatch):
    whole = profile(rough, "alpha")
    crippled(0.25, monkeypatch, always=False)
    found = profile(rough, "alpha")
    assert found.left_out == 0
    near = np.abs(found.value - 0.25) < 0.01
    assert near.any()
    np.testing.assert_allclose(found.statistic[near], np.interp(found.value[near], *whole.curve()), atol=0.1)


def test_one_that_fails_from_everywhere_is_left_out_and_counted(rough, monkeypatch):
    whole = profile(rough, "alpha")
    crippled(0.25, monkeypatch, always=True)
    found = profile(rough, "alpha")
    assert found.left_out > 0
    assert not np.any(np.abs(found.value - 0.25) < 0.01)
    assert found.interval() == pytest.approx(whole.interval(), rel=0.02)


def test_the_drawn_line_goes_through_the_points_and_is_never_negative(rough):
    found = profile(rough, "F")
    x, y = found.curve()
    np.testing.assert_allclose(np.interp(found.value, x, y), found.statistic, rtol=1e-6, atol=1e-9)
    assert y.min() == pytest.approx(0, abs=1e-12)
    assert len(x) >= 400


def test_a_point_far_outside_that_creeps_along_a_valley_is_left_there(monkeypatch):
    """beta at its bound, where three sizes of two lengths are met by ever steeper laws: no point is tried for ever."""
    table = make_table(
        runs({n: rho_of(n) for n in ("int2", "int4")}, sizes=(3e7, 1e8, 3e8), tokens=(2e9, 8e9), law=TRUTH),
        "made",
        strict=False,
    )
    found, solves = fit(table, LAWS["tanh"], Settings(starts=8)), []
    solve = Fit.solve
    monkeypatch.setattr(Fit, "solve", lambda *a, **k: solves.append(1) or solve(*a, **k))
    curves = profiles(found)
    assert set(curves) == {"alpha", "beta", "E", "F", "C"}
    assert len(solves) < 30
