"""Fit errors of laws side by side: the right law fits best, by more than chance, and what is missing is said."""

import numpy as np
import pytest
from support import synthetic

from capscale.analysis.evidence import interval
from capscale.analysis.fit_errors import fit_errors, with_formats
from capscale.analysis.table import make_table
from capscale.errors import UserError

INTEGERS = ("int1", "int2", "int3", "int4", "int8")


@pytest.fixture(scope="module")
def table():
    rho = {name: synthetic.rho_of(name) for name in INTEGERS}
    return make_table(synthetic.runs(rho, tokens=(1_024_000.0, 2_048_000.0), noise=0.003), "invented")


@pytest.fixture(scope="module")
def errors(table):
    return fit_errors(table, ("decoupled", "tanh", "kumar"), resamples=400)


def test_errors_are_those_of_the_fits(errors):
    for name, each in errors.fits.items():
        assert errors.rmse(name)[0] == pytest.approx(each.rmse)
        assert errors.rmse(name).shape == (401,)
    assert errors.rmse("tanh")[0] == pytest.approx(0.003, rel=0.3)


def test_a_law_inside_another_never_fits_better(errors):
    assert errors.log_ratio("tanh", "decoupled")[0] >= -1e-6


def test_a_wrong_law_is_told_from_the_right_one(errors):
    found = interval(errors.log_ratio("kumar", "tanh"))
    assert found.low > np.log(2)
    assert found.value == pytest.approx(np.log(errors.fits["kumar"].rmse / errors.fits["tanh"].rmse))


def test_formats_are_chosen_and_those_without_rows_named(table):
    chosen, note = with_formats(table, ("int1", "int2", "int3", "int5"))
    assert {r.weights for r in chosen.rows} == {"dense", "int1", "int2", "int3"}
    assert note == "left out, without a result: int5"
    assert with_formats(table, INTEGERS)[1] == ""


def test_too_few_formats_and_no_dense_rows_are_refused(table):
    with pytest.raises(UserError, match="no result of int5, int6; 3 formats are needed"):
        with_formats(table, ("int1", "int2", "int5", "int6"))
    with pytest.raises(UserError, match="no dense rows"):
        with_formats(table.select(np.array([not r.is_dense for r in table.rows])), INTEGERS)
