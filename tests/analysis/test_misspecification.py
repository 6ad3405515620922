from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import chi2
from support.synthetic import TRUTH, rho_of, runs

from capscale.analysis.families import family, wider
from capscale.analysis.fit import Constraints, Fit, Settings, fit
from capscale.analysis.inspection import inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.misspecification import LEVEL, contradiction
from capscale.analysis.problem import pose
from capscale.analysis.sentences import fits
from capscale.analysis.sentences.quotable import not_identified, of_a_wrong_law, refused
from capscale.analysis.sentences.rule import say
from capscale.analysis.table import Table, make_table

WRONG = replace(TRUTH, g=0.7)
RHO = {name: rho_of(name) for name in ("int4", "int3", "int2")}
GRID = {"sizes": (3e7, 1e8, 3e8, 1e9), "tokens": (2e9, 8e9, 3.2e10, 1.28e11), "noise": 0.0}
INDEPENDENT = Settings(delta=1.0, starts=2, shared="none")


@cache
def losses(law) -> Table:
    return make_table(runs(RHO, law=law, **GRID), "made", strict=False)


def drawn(seed: int, law=TRUTH, noise: float = 0.004, shared: float = 0.0) -> Table:
    """Runs of a law, with errors of their own and, perhaps, of their size."""
    random, table = np.random.default_rng(seed), losses(law)
    size = np.unique(table.column("N"), return_inverse=True)[1]
    error = random.normal(0, noise, len(table)) + random.normal(0, 1, 4)[size] * shared
    return replace(table, rows=tuple(r._replace(loss=r.loss + e) for r, e in zip(table.rows, error, strict=True)))


def fitted(seed: int, settings: Settings = INDEPENDENT, name: str = "tanh", **change) -> Fit:
    return fit(drawn(seed, **change), LAWS[name], settings)


@pytest.mark.ci
def test_a_right_law_is_seldom_contradicted():
    assert sum(contradiction(fitted(seed)) is not None for seed in range(100)) <= 5


def test_a_wrong_law_is_contradicted_by_the_law_that_is_right():
    found = [contradiction(fitted(seed, law=WRONG)) for seed in range(20)]
    assert sum(c is not None for c in found) >= 18
    assert sum(c is not None and c.wider is not None and c.wider.law.name == "tanh-coupled" for c in found) >= 12
    right = [contradiction(fitted(seed, law=WRONG, name="tanh-coupled")) for seed in range(20)]
    assert sum(c is not None for c in right) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.006])
def test_errors_shared_by_a_size_are_no_misfit_and_hide_none(shared):
    settings = Settings(starts=4)
    assert sum(contradiction(fitted(seed, settings, shared=shared)) is not None for seed in range(100)) <= 5
    found = [contradiction(fitted(seed, settings, shared=shared, law=WRONG)) for seed in range(40)]
    assert sum(c is not None for c in found) >= 34


def test_the_score_is_the_rise_of_the_likelihood_of_the_wider_law():
    """Twice the log likelihood ratio of the two fits, in large tables chi-squared with one degree of freedom."""
    few = fitted(3, Settings(delta=1.0, starts=8, shared="none"), law=replace(TRUTH, g=0.85))
    (shape,) = (w for w in wider(few.law) if w.number == "g")
    more = fit(few.table, shape.law, few.settings)
    ratio = len(few.table) * np.log(few.rmse**2 / more.rmse**2)
    found = contradiction(few)
    assert found is not None
    assert found.wider is not None
    assert found.wider.number == "g"
    assert np.log(found.chance) == pytest.approx(np.log(4 * chi2.sf(ratio, 1)), rel=0.25)


def test_any_law_is_held_against_curves():
    """A law that nothing wider is named for: its residuals are held against squares of log N, log D and log rho."""
    assert wider(LAWS["kaplan"]) == ()
    found = contradiction(fit(drawn(0).select(np.arange(64) < 16), LAWS["kaplan"], INDEPENDENT))
    assert found is not None
    assert found.wider is None


@pytest.mark.parametrize("name", ["tanh", "decoupled", "dense"])
def test_wider_laws_are_the_fitted_one_at_the_number_that_they_say(name):
    law, random = LAWS[name], np.random.default_rng(0)
    table = losses(TRUTH) if name != "dense" else losses(TRUTH).select(np.arange(64) < 16)
    problem = pose(table, law)
    low, high = np.array([q.start for q in problem.parameters]).T
    z = low + (high - low) * random.random(len(low))
    assert [w.number for w in wider(law)] == ["g", "k", "delta"]
    for shape in wider(law):
        more = pose(table, shape.law)
        place = more.names.index(shape.number)
        assert more.names == (*problem.names[:place], shape.number, *problem.names[place:])
        same = np.insert(z, place, more.coordinate(shape.number, shape.at))
        np.testing.assert_allclose(more.predict(same), problem.predict(z), rtol=1e-12)


def test_a_dense_law_is_an_ensemble_of_one():
    assert family(LAWS["dense"]) == (LAWS["dense"],)


def test_exact_runs_contradict_nothing():
    assert contradiction(fit(losses(TRUTH), LAWS["tanh"], INDEPENDENT)) is None


def test_what_is_fixed_wrongly_is_no_fault_of_the_law():
    held = fit(drawn(0), LAWS["tanh"], INDEPENDENT, Constraints({"alpha": 0.5}))
    assert held.rmse > 0.01
    assert contradiction(held) is not None, "linear theory does not reach from there to the optimum"
    assert inspect(held, profiled=False).contradiction is None


def test_numbers_of_a_wrong_law_are_not_quoted():
    wrong = inspect(fitted(0, law=WRONG), profiled=False)
    assert of_a_wrong_law(wrong) == {"A", "B", "alpha", "beta", "E", "F", "C"} <= refused(wrong)
    assert not not_identified(wrong)
    (said,) = (s.text for s in say(fits.RULES, wrong) if s.rule == "law contradicted")
    assert "L = (A (N rho)^-alpha + B D^-beta)^g + E, of which it is g = 1" in said
    assert f"{LEVEL:g} is the limit): A, B, alpha, beta, E, F and C are numbers of a law that is wrong here" in said
    right = inspect(fitted(0), profiled=False)
    assert not of_a_wrong_law(right)
    assert not any(s.rule == "law contradicted" for s in say(fits.RULES, right))
