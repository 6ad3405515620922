"""Further numbers of the additive law: called where they are, and told apart."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capscale.analysis.extensions import additive_law, extended, extensions, widened
from capscale.analysis.families import GRADIENTS_FACTOR, SHAPES, joined, wider
from capscale.analysis.fit import Settings, fit, least_squares
from capscale.analysis.laws import LAWS
from capscale.analysis.misspecification import added
from capscale.analysis.odds import odds
from capscale.analysis.problem import pose
from capscale.analysis.table import make_table

A, ALPHA, B, BETA, E = 406.4, 0.34, 410.7, 0.28, 1.69  # Hoffmann et al. 2022, arXiv 2203.15556, eq. 10
RHO = {"dense": 1.0, "int4": 0.9, "int2": 0.5}
SETTINGS = Settings(starts=8, shared="none")
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def drawn(seed, noise=0.003, gradients=("dense", "quartet"), **numbers):
    random, rows = np.random.default_rng(seed), []
    for weights, rho in RHO.items():
        for held in gradients:
            for N in (3e7, 1e8, 3e8, 1e9):
                for ratio in (25, 50, 200):
                    eta, cost = (numbers.get("eta", 1.0), 0.85) if held != "dense" else (1.0, 1.0)
                    drift = (ratio / 20) ** -numbers.get("delta", 0.0) if weights != "dense" else 1.0
                    loss = A * (N * rho * cost * drift) ** -ALPHA + B * (N * ratio * eta) ** -BETA
                    loss = loss ** numbers.get("g", 1.0) + E + random.normal(0, noise)
                    rows.append({"run": f"run {len(rows)}", "N": N, "D": N * ratio, "loss": loss, "weights": weights})
                    rows[-1] |= {"activations": "dense", "gradients": held}
    return make_table(rows, "drawn", strict=False)


def test_which_laws_are_asked():
    assert additive_law(LAWS["decoupled"]) == LAWS["decoupled"]
    plain = additive_law(LAWS["tanh-drift"])
    assert plain is not None
    assert (plain.loss, plain.form) == (LAWS["tanh"].loss, LAWS["tanh"].form)
    assert additive_law(LAWS["decoupled-coupled"]) == LAWS["decoupled"]
    for name in ("decoupled-gradients", "decoupled-gradients-size", "decoupled-gradients-pairs"):
        assert additive_law(LAWS[name]) == LAWS["decoupled"]
    for name in ("chen", "kaplan", "dense", "decoupled-efficiencies"):
        assert additive_law(LAWS[name]) is None
    assert extensions(drawn(0), LAWS["chen"]) is None


def test_laws_of_several_numbers_are_those_of_fewer_where_the_others_do_nothing():
    base, table = LAWS["decoupled"], drawn(0)
    shapes = [*SHAPES, GRADIENTS_FACTOR]
    at = {"g": 0.8, "k": 0.3, "delta": 0.04, "eta": 0.7}
    for one in shapes:
        for other in (shape for shape in shapes if shape != one):
            both, alone = pose(table, joined(base, [one, other])), pose(table, one.law)
            low, high = np.array([q.start for q in alone.parameters]).T
            known = dict(zip(alone.names, (low + high) / 2, strict=True))
            for name in known:
                if name.partition("[")[0] == one.number:
                    known[name] = alone.coordinate(name, at[one.number])
            z = [known[n] if n in known else both.coordinate(n, other.at) for n in both.names]
            assert len(z) > len(known)
            np.testing.assert_allclose(
                both.predict(np.array(z)), alone.predict(np.array([*known.values()])), rtol=1e-12
            )
    problem = pose(table, LAWS["decoupled-gradients-pairs"])
    assert {n for n in problem.names if "quartet" in n} == {
        "eta[quartet]", *(f"rho[{w}, gradients quartet]" for w in RHO)
    }  # fmt: skip


@pytest.mark.ci
def test_the_direction_of_a_factor_of_gradients_is_its_derivative():
    plain = fit(drawn(1), LAWS["decoupled"], SETTINGS)
    (direction,) = added(plain, GRADIENTS_FACTOR.law, GRADIENTS_FACTOR).T
    v, compressed = plain.values, np.array([r.gradients != "dense" for r in plain.table.rows])
    expected = np.where(compressed, -v["beta"] * v["B"] * plain.table.column("D") ** -v["beta"], 0.0)
    np.testing.assert_allclose(direction, expected, rtol=1e-5, atol=1e-9)


def told(table, law="decoupled"):
    found = extensions(table, LAWS[law], SETTINGS)
    assert found is not None
    return found


@pytest.mark.ci
def test_runs_of_the_additive_law_ask_for_nothing():
    found = [told(drawn(seed)) for seed in range(8)]
    assert [x.verdict for x in found].count("none") >= 7
    assert all(len(x.asked) == 4 and x.held_out != x.held_out for x in found)
    # 95 % intervals by one step: 32 of them, of numbers that are none.
    inside = [i.low <= a.shape.at <= i.high for x in found for a in x.asked for i in a.intervals.values()]
    assert sum(inside) >= 27


@pytest.mark.ci
@pytest.mark.parametrize(("number", "value"), [("eta", 0.8), ("delta", 0.05), ("g", 0.7)])
def test_the_number_that_is_there_is_called(number, value):
    x = told(drawn(0, **{number: value}))
    assert x.verdict == "one"
    (only,) = x.allowed
    assert only.shape.number == number
    (interval,) = only.intervals.values()
    assert interval.low - 0.02 < value < interval.high + 0.02
    assert interval.high < only.shape.at or interval.low > only.shape.at
    assert only.held_out < x.held_out


@pytest.mark.ci
def test_a_coupling_that_is_as_likely_as_a_drift_is_named_beside_it(monkeypatch):
    """By this draw, with errors that runs may share, the drift passes and the law that made the runs does not."""
    monkeypatch.syspath_prepend(SCRIPTS)
    bench = importlib.import_module("bench_extensions")
    x = extensions(bench.drawn("g .7", 1), LAWS["decoupled"])
    assert x is not None
    assert [a.shape.number for a in x.asked if a.passes] == ["delta"]
    assert {a.shape.number for a in x.allowed} == {"g", "delta"}
    assert x.verdict == "several"


@pytest.mark.ci
def test_tables_without_gradients_and_of_one_ratio():
    """At one D/N a drift is a capacity, and the table cannot tell it from that."""
    table = drawn(0, gradients=("dense",))
    assert {a.shape.number for a in told(table, "tanh").asked} == {"g", "k", "delta"}
    one = table.select(np.array([r.D / r.N == 50 for r in table.rows]))
    found = extended(fit(one, LAWS["decoupled"], SETTINGS))
    assert found.verdict == "open"
    (drift,) = [a for a in found.asked if a.shape.number == "delta"]
    assert drift.leaves_room
    assert np.isnan(drift.chance)
    assert not drift.intervals


@pytest.mark.ci
def test_odds_are_those_of_sums_of_squares_where_nothing_is_shared():
    """Of laws with as many numbers; the additive one has one number less, and pays less by the root of the rows."""
    plain = fit(drawn(3, g=0.8), LAWS["decoupled"], SETTINGS)
    fits = [least_squares(f, f.shared) for f in (plain, *(widened(plain, shape) for shape in wider(plain.law)))]
    squares, rows = np.array([np.sum(f.residuals**2) for f in fits]), len(plain.table)
    assert squares[0] > squares[1:].max()
    logs = -0.5 * (rows - len(fits[1].z)) * np.log(squares) - 0.5 * np.log(rows) * np.array([0, 1, 1, 1])
    np.testing.assert_allclose(odds(fits), np.exp(logs.max() - logs), rtol=1e-3)
    assert min(odds(fits)) == 1
    assert odds([]) == ()


@pytest.mark.ci
def test_a_wider_law_is_fitted_as_well_as_from_many_starts():
    table = drawn(2, g=0.7)
    plain = fit(table, LAWS["decoupled"], SETTINGS)
    (shape,) = (w for w in wider(plain.law) if w.number == "g")
    many = fit(table, shape.law, replace(SETTINGS, starts=64))
    assert widened(plain, shape).objective <= many.objective * (1 + 1e-4)
