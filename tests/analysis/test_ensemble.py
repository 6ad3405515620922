import numpy as np
import pytest
from support.synthetic import TRUTH
from test_rollouts import FORMATS, proportional

from capscale.analysis.ensemble import beyond_runs, gathered
from capscale.analysis.families import family
from capscale.analysis.fit import Settings
from capscale.analysis.laws import LAWS
from capscale.analysis.predict import Predictor, predict, target
from capscale.analysis.rollouts import Beyond
from capscale.capacity import Scaling
from capscale.errors import UserError

RATIOS = (25.0, 50.0, 100.0, 200.0)
COUPLED = Scaling(TRUTH.A, TRUTH.alpha, TRUTH.B, TRUTH.beta, TRUTH.E, g=0.5)
QUICK = Settings(starts=8, shared="none")


@pytest.fixture(scope="module")
def right():
    return gathered(proportional(RATIOS), family(LAWS["tanh"]), QUICK)


@pytest.fixture(scope="module")
def wrong():
    """Two laws that the runs do not follow."""
    laws = [law for law in family(LAWS["tanh"]) if law.name in ("tanh", "tanh-drift")]
    return gathered(proportional(RATIOS, law=COUPLED, noise=5e-4), laws, QUICK)


def test_a_family_has_one_form_of_rho_and_all_shapes():
    shapes = ["logistic", "logistic-coupled", "logistic-tokens", "logistic-drift"]
    assert [law.name for law in family(LAWS["logistic"])] == shapes
    assert {law.form.name for law in family(LAWS["logistic"])} == {"logistic"}
    assert [law.name for law in family(LAWS["decoupled"])][1] == "decoupled-coupled"
    assert family(LAWS["tanh-coupled"]) == (LAWS["tanh-coupled"],)


@pytest.mark.ci
def test_weights_go_to_the_law_that_predicts(right):
    found = gathered(proportional(RATIOS, law=COUPLED, noise=5e-4), family(LAWS["tanh"]), QUICK)
    weights = dict(zip(found.law_names, found.weights, strict=True))
    assert weights["tanh-coupled"] > 0.9
    assert sum(right.weights) == pytest.approx(1)
    assert max(right.weights) < 0.6  # all of them hold the additive law


@pytest.mark.ci
def test_what_the_right_laws_miss_does_not_grow(right):
    found = right.calibration
    assert found.growth["N"] < 0.003
    assert found.growth["D"] < 0.003
    assert found.covered > 0.85
    assert found.folds == {"N": 2, "D": 2}


def test_what_wrong_laws_miss_grows_and_is_part_of_intervals(wrong, right):
    assert wrong.calibration.growth["D"] > 2 * wrong.best.noise**0.5
    row = target("int4", N=4.8e8, D=2 * 9.6e10)
    truth = float(COUPLED.loss(row.N, row.D, FORMATS["int4"]))
    found = predict(wrong, row)
    assert found.stated
    assert found.loss.low <= truth <= found.loss.high
    inside = predict(wrong, row._replace(N=4.8e8, D=4.8e10))
    assert found.loss.high - found.loss.low > 1.5 * (inside.loss.high - inside.loss.low)


def test_folds_know_only_what_lies_below_their_cut(right):
    """The first cut of a direction has no earlier one to weigh laws by."""
    firsts = {f.axis: f for f in reversed(right.folds)}
    for fold in firsts.values():
        assert fold.weights == pytest.approx(np.full(4, 0.25))
    for fold in right.folds:
        assert np.all(getattr(fold.beyond, fold.axis) > 0)


def test_no_interval_beyond_what_was_tried(right):
    reach = np.exp(right.calibration.reach["N"])
    row = target("int4", N=4.8e8 * reach, D=4.8e10 * reach)
    far = row._replace(N=1.2 * row.N, D=1.2 * row.D)
    near, beyond = predict(right, row), predict(right, far)
    assert near.stated
    assert not beyond.stated
    assert beyond.loss[1:] == (-np.inf, np.inf)
    assert np.isfinite(beyond.loss.estimate)
    assert any("no interval of the loss is stated" in n for n in beyond.notes)
    assert any("and no farther" in n for n in beyond.notes)
    assert not any("no farther" in n for n in near.notes)


def test_no_interval_of_a_dense_equivalent_far_below_those_of_the_runs(right):
    """The laws see N rho: a format of little capacity at the smallest size is a model that no run was as small as."""
    asked = target("mine", N=3e7, D=1.5e9, weights_gmse=0.9)
    weak = predict(right, asked)
    assert not weak.stated
    assert any("times below the dense-equivalent sizes of the runs" in n and "and no farther" in n for n in weak.notes)
    larger = predict(right, asked._replace(N=4.8e8, D=2.4e10))  # below them as well, by less than was tried
    assert larger.stated
    assert any("below the dense-equivalent sizes" in n and "no farther" not in n for n in larger.notes)
    trained = predict(right, target("int2", N=3e7, D=1.5e9))
    assert trained.stated
    assert not any("dense-equivalent" in n for n in trained.notes)


@pytest.mark.ci
def test_a_table_without_rollouts_states_nothing_beyond_itself():
    table = proportional((25.0, 50.0), sizes=(3e7, 1e8, 3e8))
    found = gathered(table, family(LAWS["tanh"]), QUICK)
    assert found.folds == ()
    assert found.weights == pytest.approx(np.full(4, 0.25))
    assert predict(found, target("int4", N=3e8, D=1.5e10)).stated
    assert not predict(found, target("int4", N=6e8, D=3e10)).stated


def test_formats_share_what_is_missed_in_common(right):
    rows = [target(n, N=1.9e9, D=1.9e11) for n in ("int4", "int3")]
    predictor = Predictor(right, tuple(rows), 400)
    one, other = (predictor.predict(r) for r in rows)
    apart = np.std(one.draws - other.draws)
    assert apart < np.hypot(np.std(one.draws), np.std(other.draws))


def test_growth_counts_in_both_directions(right):
    by = Beyond(np.array([1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    calibration = right.calibration.__class__(
        {"N": 0.3, "D": 0.4}, right.calibration.reach, right.calibration.folds, 0.5, 1.0
    )
    assert np.sqrt(calibration.added(by, np.ones(3))) == pytest.approx([0.3, 0.4, 0.5])
    assert np.sqrt(calibration.added(by, np.full(3, 2.0))) == pytest.approx([0.6, 0.8, 1.0])


def test_laws_that_the_table_cannot_carry_are_named():
    found = gathered(proportional(), [LAWS["tanh"], LAWS["frantar"]], QUICK)
    assert found.law_names == ("tanh",)
    assert found.left_out[0][0] == "frantar"
    with pytest.raises(UserError, match="sparsity"):
        gathered(proportional(), [LAWS["frantar"]], QUICK)
    assert float(beyond_runs(found.table, [target("int4", N=3e7, D=1.5e9)]).N[0]) == 0
