import numpy as np
import pytest
from support.synthetic import TRUTH, rho_of, runs

from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.rollouts import beyond, cuts, roll_out
from capscale.analysis.table import make_table
from capscale.capacity import Scaling

SIZES = (3e7, 6e7, 1.2e8, 2.4e8, 4.8e8)
FORMATS = {n: rho_of(n) for n in ("int8", "int4", "int2")}
QUICK = Settings(starts=8, shared="none")


def proportional(ratios=(25.0, 50.0, 100.0), rho=FORMATS, law=TRUTH, noise=0.003, sizes=SIZES):
    """Every size trained to the same tokens per parameter."""
    rows = [r for k in ratios for n in sizes for r in runs(rho, sizes=(n,), tokens=(n * k,), law=law, noise=0.0)]
    random = np.random.default_rng(0)
    return make_table([r | {"loss": r["loss"] + random.normal(0, noise)} for r in rows], "synthetic")


def test_cuts_leave_three_sizes_and_two_lengths():
    table = proportional()
    found = cuts(table)
    assert [c.axis for c in found] == ["N", "N", "D"]
    assert [len(np.unique(table.column("N")[c.train])) for c in found] == [3, 4, 5]
    assert all(np.all(c.train ^ c.test) for c in found)
    longest = found[-1]
    assert set(table.column("D")[longest.test] / table.column("N")[longest.test]) == {100.0}
    assert len(cuts(table, 1)) == 2


def test_tables_that_allow_no_cut_have_none():
    assert cuts(proportional(ratios=(25.0, 50.0), sizes=SIZES[:3])) == ()


def test_a_format_that_no_row_below_the_cut_has_is_not_asked_of():
    table = proportional()
    only_long = np.array([r.weights != "int8" or r.D == 100 * r.N for r in table.rows])
    table = table.select(only_long)
    (cut,) = (c for c in cuts(table) if c.axis == "D")
    asked = {r.weights for r, t in zip(table.rows, cut.test, strict=True) if t}
    assert asked == {"dense", "int4", "int2"}


def test_many_sizes_are_cut_at_quantiles():
    random = np.random.default_rng(1)
    N = np.exp(random.uniform(np.log(1e7), np.log(1e9), 60))
    rows = [runs({}, sizes=(n,), tokens=(n * random.uniform(20, 200),), law=TRUTH)[0] for n in N]
    found = cuts(make_table(rows, "x"))
    assert [c.axis for c in found] == ["N"] * 3 + ["D"] * 3
    assert found[0].train.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("which", [0, -1])
def test_a_rollout_is_the_fit_to_the_rows_below_the_cut(which):
    table = proportional()
    law = LAWS["tanh"]
    cut = cuts(table)[which]
    rolled = roll_out(fit(table, law, QUICK), cut)
    alone = fit(table.select(cut.train), law, QUICK)
    expected = alone.problem.predict(alone.z, alone.problem.gather(table.rows))
    assert rolled.predicted == pytest.approx(expected, abs=1e-6)
    assert np.all(rolled.variance[cut.test] > 0)


def test_distances_count_from_the_longest_training_of_about_that_size():
    table = proportional()
    asked = make_table(
        [
            {"N": n, "D": d, "loss": 3.0, "weights": "dense", "activations": "dense"}
            for n, d in [(4.8e8, 4.8e10), (9.6e8, 9.6e10), (4.8e8, 1.92e11), (3e7, 1.2e10), (1.5e7, 1.5e9)]
        ],
        "asked",
        strict=False,
    )
    by = {(r.N, r.D): (n, d) for r, n, d in zip(asked.rows, *beyond(asked, table), strict=True)}
    two, four = np.log(2), np.log(4)
    assert by[4.8e8, 4.8e10] == (0, 0)
    assert by[9.6e8, 9.6e10] == pytest.approx((two, 0))  # in proportion
    assert by[4.8e8, 1.92e11] == pytest.approx((0, four))
    assert by[3e7, 1.2e10] == pytest.approx((0, four))  # others were trained as long, not of that size
    assert by[1.5e7, 1.5e9] == pytest.approx((two, 0))


def test_a_wrong_law_misses_beyond_the_cut_by_more_than_it_says():
    """The additive law on runs of the coupled one."""
    wrong = proportional(ratios=(25.0, 100.0, 400.0), law=Scaling(406.4, 0.34, 410.7, 0.28, 1.69, g=0.5), noise=1e-4)
    law = LAWS["tanh"]
    rolled = roll_out(fit(wrong, law, QUICK), cuts(wrong)[-1])
    error = (wrong.column("loss") - rolled.predicted)[rolled.test]
    assert np.sqrt(np.mean(error**2 / (rolled.variance[rolled.test] + rolled.noise))) > 2
