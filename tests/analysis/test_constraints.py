import pytest
from support.synthetic import TRUTH, well_spread

from capscale.analysis.constraints import compare, without
from capscale.analysis.fit import Constraints, Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.table import make_table

TABLE = make_table(well_spread(60, 0.003, 0).to_dict("records"), "synthetic")


def compared(law="tanh", rows=TABLE, **given):
    return compare(fit(rows, LAWS[law], Settings(starts=16), Constraints(**given)))


def test_the_true_numbers_are_not_contradicted():
    found = compared(fixed={"alpha": TRUTH.alpha, "E": TRUTH.E})
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert found.limit == pytest.approx((1 + 2 * 3.17 / 53) ** 0.5, abs=1e-3)  # F(2, 53) has its 95 % point at 3.17
    assert not found.contradicted


def test_the_number_that_is_wrong_pulls_and_the_right_one_does_not():
    found = compared(fixed={"beta": TRUTH.beta, "alpha": 0.15})
    assert found.contradicted
    assert [r.name for r in found.pulling] == ["alpha"]
    first = found.releases[0]
    assert first.value == pytest.approx(TRUTH.alpha, abs=0.01)
    assert first.closes > 0.95
    assert first.rmse < 1.1 * found.free.rmse


def test_a_prior_is_compared_like_a_fixed_number():
    assert compared(priors={"alpha": (0.1, 0.001)}).contradicted
    assert not compared(priors={"alpha": (0.34, 0.05)}).contradicted


def test_nothing_is_compared_without_something_given():
    assert compared() is None


def test_a_unit_is_no_claim():
    """Without dense runs a fixed capacity says what the others are measured in."""
    compressed = TABLE.select([not r.is_dense for r in TABLE.rows])
    assert compared("decoupled", compressed, fixed={"rho[int8]": 1.0}) is None
    assert compared("decoupled", fixed={"rho[int8]": 0.5}).contradicted


def test_constraints_are_taken_away_by_name():
    given = Constraints({"alpha": 1.0, "E": 2.0}, {"beta": (1.0, 2.0)})
    assert without(given, "E", "beta") == Constraints({"alpha": 1.0}, {})
