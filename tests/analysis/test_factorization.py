import numpy as np
import pytest
from synthetic import RHO, TRUTH

from capscale.analysis.factorization import Matrix, best_rank_one, error_interval, from_runs, outer_product, printed
from capscale.analysis.fit import fit
from capscale.analysis.laws import LAWS
from capscale.analysis.operands import gaussian_error
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.errors import UserError


@pytest.mark.parametrize(
    ("figure", "mean", "largest"), [("2b", 0.014, 0.034), ("6", 0.041, 0.084), ("9", 0.023, 0.096)]
)
def test_printed_figures(figure, mean, largest):
    found = outer_product(printed()[figure]).summary()
    assert found["mean_abs"] == pytest.approx(mean, abs=5e-4)
    assert found["max_abs"] == pytest.approx(largest, abs=6e-4)


def test_the_product_underestimates_where_both_operands_are_compressed():
    assert outer_product(printed()["6"]).summary()["share_positive"] == 1.0
    assert outer_product(printed()["2b"]).summary()["share_positive"] > 0.8


def test_printed_numbers_are_the_papers():
    six = printed()["6"]
    assert six.capacity[1, 2] == 0.40
    assert six.dense == (4, 4)
    assert printed()["9"].capacity.shape == (10, 5)


def test_rank_one_matrix_is_found_exactly():
    rows, columns = np.array([1.0, 0.7, 0.3]), np.array([1.0, 0.5, 0.2, 0.9])
    matrix = Matrix("x", "r", "c", ("a", "b", "d"), ("e", "f", "g", "h"), np.outer(rows, columns), (0, 0))
    for found in (outer_product(matrix), best_rank_one(matrix)):
        np.testing.assert_allclose(found.errors, 0, atol=1e-12)
        np.testing.assert_allclose(found.row_factor, rows)
    bent = matrix.capacity.copy()
    bent[1, 1] += 0.1
    other = Matrix("x", "r", "c", matrix.row_names, matrix.column_names, bent, (0, 0))
    assert outer_product(other).summary()["max_abs"] == pytest.approx(0.1)


@pytest.mark.slow
def test_runs_of_both_operands():
    random, rows = np.random.default_rng(0), []
    for w in ("dense", "int2", "int4"):
        for a in ("dense", "int3", "int8"):
            rho = np.prod([1.0 if n == "dense" else float(RHO.rho(gaussian_error(n))) for n in (w, a)])
            for N in (3e7, 1e8, 3e8, 1e9):
                for ratio in (20, 200):
                    loss = float(TRUTH.loss(N, ratio * N, rho) + random.normal(0, 0.003))
                    rows.append({"N": N, "D": ratio * N, "loss": loss, "weights": w, "activations": a})
    table = make_table(rows, "x")
    matrix = from_runs(table, bootstrap(fit(table, LAWS["decoupled"]), 200))
    errors, interval = outer_product(matrix).errors, error_interval(matrix)
    assert np.abs(errors).max() < 0.05
    inside = (interval[0] <= 0) & (interval[1] >= 0)
    assert inside.sum() >= 8  # of 9, at 95 %
    alone = table.select(np.array([not (r.weights == "dense" and r.activations == "int3") for r in table.rows]))
    with pytest.raises(UserError, match="missing with a dense partner: int3"):
        from_runs(alone, bootstrap(fit(alone, LAWS["decoupled"]), 4))


def test_incomplete_matrices_are_refused():
    with pytest.raises(UserError, match="dense row"):
        Matrix("x", "r", "c", ("a", "b"), ("c", "d"), np.array([[1.0, np.nan], [0.5, 0.2]]), (0, 0))
