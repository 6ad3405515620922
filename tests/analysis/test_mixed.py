"""The mixed model against its oracles: least squares without departures, and truths that were put in."""

import numpy as np
import pytest
from support.synthetic import RHO, TRUTH, rho_of, runs

from capscale.analysis.departures import departures, kin
from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.mixed import mixture
from capscale.analysis.operands import gaussian_error
from capscale.analysis.predict import target
from capscale.analysis.table import make_table

SIZES, TOKENS = (3e7, 1e8, 3e8, 1e9), (2e9, 8e9, 3.2e10)
QUICK = Settings(starts=8, shared="none", delta=1.0)
INTEGERS = {n: rho_of(n) for n in ("int8", "int4", "int3", "int2")}


def table(rho, **changes):
    return make_table(runs(rho, sizes=SIZES, tokens=TOKENS, law=TRUTH, **changes), "synthetic", strict=False)


def test_without_departures_it_is_least_squares():
    found = fit(table(INTEGERS), LAWS["decoupled"], QUICK)
    (one,) = mixture(found)
    assert one.share == 1
    assert not one.kin
    J = found.problem.jacobian(one.z)[:, found.free]
    residuals = found.problem.loss - found.problem.predict(one.z)
    noise = residuals @ residuals / (len(residuals) - J.shape[1])
    assert one.noise == pytest.approx(noise, rel=1e-3)
    covariance = (one.root @ one.root.T)[np.ix_(found.free, found.free)]
    expected = noise * np.linalg.inv(J.T @ J)
    deviation = np.sqrt(np.diag(expected))
    # The wide prior takes a little off the numbers that are known worst.
    assert np.sqrt(np.diag(covariance)) == pytest.approx(deviation, rel=0.05)
    assert one.loss(found.table.rows) == pytest.approx(found.problem.predict(one.z), abs=1e-12)


def stretched(name, u):
    return float(np.exp(np.exp(-u) * np.log(RHO.rho(gaussian_error(name)))))


def test_a_kind_that_stands_off_the_curve_is_found_and_carried_to_its_kin():
    u = 0.5
    sparse = {n: stretched(n, u) for n in ("top50", "top75")}
    found = fit(table(INTEGERS | sparse), LAWS["tanh"], QUICK)
    asked = target("top60", N=3e8, D=8e9)
    (one,) = mixture(found, [asked])
    of = {k.name.split()[0]: float(v) for k, v in zip(one.kin, one.u, strict=True)}
    # What all formats share is the curve's: departures are told by their differences.
    middle = np.mean([of[n] for n in ("int4", "int3", "int2")])
    assert of["top50"] - middle == pytest.approx(u, abs=0.2)
    truth = float(TRUTH.loss(3e8, 8e9, stretched("top60", u)))
    assert abs(one.loss([asked])[0] - truth) < 3 * np.sqrt(one.variance([asked])[0])
    by_curve = found.problem.predict(found.z, found.problem.gather([asked]))[0]
    assert abs(one.loss([asked])[0] - truth) < 0.75 * abs(by_curve - truth)


def test_a_kind_that_no_run_has_is_where_other_studies_put_it():
    found = fit(table(INTEGERS), LAWS["tanh"], QUICK)
    asked = target("top50", N=3e8, D=8e9)
    (one,) = mixture(found, [asked])
    (mine,) = kin(asked)
    at = one.kin.index(mine)
    assert one.u[at] == pytest.approx(departures().means[("weights", "sparse")], abs=1e-6)
    deviation = float(np.sqrt(np.sum(one.root[len(one.z) + at] ** 2)))
    assert deviation == pytest.approx(np.sqrt(one.scale) * departures().deviation(mine), rel=1e-6)


def test_formats_that_scatter_widen_what_is_said_of_others():
    odd = {n: stretched(n, u) for n, u in zip(INTEGERS, (0.0, 0.6, -0.6, 0.5), strict=True)}
    asked = target("int6", N=3e8, D=8e9)
    calm, wild = (mixture(fit(table(rho), LAWS["tanh"], QUICK), [asked])[0] for rho in (INTEGERS, odd))
    assert wild.scale > 2 * calm.scale
    assert wild.variance([asked])[0] > 2 * calm.variance([asked])[0]


def test_shared_errors_are_part_of_a_new_size():
    random = np.random.default_rng(3)
    of_size = {n: random.normal(0, 0.02) for n in (3e7, 6e7, 1e8, 2e8, 3e8, 6e8, 1e9)}
    rows = runs(INTEGERS, sizes=tuple(of_size), tokens=TOKENS, law=TRUTH)
    rows = [r | {"loss": r["loss"] + of_size[r["N"]]} for r in rows]
    found = fit(make_table(rows, "synthetic", strict=False), LAWS["tanh"], Settings(starts=8))
    each = mixture(found)
    assert sum(p.share for p in each) == pytest.approx(1)
    shared = np.sqrt(sum(p.share * p.shared for p in each))
    assert 0.01 < shared < 0.04
    assert np.sqrt(each[0].noise) < 0.005


def test_runs_without_noise_have_a_posterior():
    found = fit(table(INTEGERS, noise=0.0), LAWS["tanh"], QUICK)
    (one,) = mixture(found, [target("int6", N=3e8, D=8e9)])
    assert np.all(np.isfinite(one.root))
    assert one.loss(found.table.rows) == pytest.approx(found.problem.loss, abs=1e-4)
