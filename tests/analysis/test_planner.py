import numpy as np
import pytest
from support.synthetic import FORMATS, RHO, TRUTH, rho_of, well_spread

from capscale.analysis import planner
from capscale.analysis.ensemble import gathered
from capscale.analysis.families import family
from capscale.analysis.fit import Settings
from capscale.analysis.laws import LAWS
from capscale.analysis.planner import Budget, best_size, plan
from capscale.analysis.predict import Predictor, format_error, predict, storage_bits, target
from capscale.analysis.table import make_table
from capscale.capacity import Scaling
from capscale.errors import UserError

QUICK = Settings(starts=8, shared="none")


def ensemble_of(frame, law="tanh", *, alone=True):
    laws = (LAWS[law],) if alone else family(LAWS[law])
    return gathered(make_table(frame.to_dict("records"), "synthetic"), laws, QUICK)


@pytest.fixture(scope="module")
def fitted():
    return ensemble_of(well_spread(120, 0.003, 2))


def test_a_format_never_trained_is_predicted(fitted):
    found = predict(fitted, target("int6", N=2e8, D=2e10))
    truth = float(RHO.rho(found.row.weights_gmse))
    assert found.rho.low <= truth <= found.rho.high
    assert found.loss.low <= float(TRUTH.loss(2e8, 2e10, truth)) <= found.loss.high
    assert found.loss.high - found.loss.low < 0.05
    assert not found.notes
    assert found.dense_equivalent == pytest.approx([r * 2e8 for r in found.rho])


def test_a_law_of_gmse_says_nothing_of_another_estimator(fitted):
    with pytest.raises(UserError, match=r"top50 \[fw\]: a law of GMSE cannot see the estimator"):
        predict(fitted, target("top50 [fw]"))
    plain = predict(fitted, target("top50"))
    assert predict(fitted, target("top50 [b-rms 0.1]")).rho == plain.rho
    for text in ("int1 [clip 1.3]", "int1 [clip 1.25]"):  # rotated, and not
        assert predict(fitted, target(text, runs=fitted.table)).rho == predict(fitted, target("int1")).rho
    assert storage_bits("top50 [b-rms 0.1]") == storage_bits("top50")


def test_another_kind_widens_the_interval_and_says_so(fitted):
    same = predict(fitted, target("int3", N=2e8, D=2e10))
    sparse = predict(fitted, target("top40", N=2e8, D=2e10))  # of about the same error
    assert sparse.rho.high - sparse.rho.low > 5 * (same.rho.high - same.rho.low)
    assert "no runs of weights sparse" in sparse.notes[0]
    assert "above the curve of integers" in sparse.notes[0]
    assert not any("no runs of" in n for n in same.notes)
    mine = predict(fitted, target("mine", weights_gmse=0.0374, N=2e8, D=2e10))
    assert "no study here has it" in mine.notes[0]


def test_a_float_is_nearer_to_integers_than_a_sparse_format(fitted):
    """Of formats of about one error: scalar kinds differ little."""
    widths = []
    for name in ("e2m1", "top25"):
        found = predict(fitted, target(name, N=2e8, D=2e10))
        widths.append(found.rho.high - found.rho.low)
    assert widths[0] < 0.15
    assert widths[0] < widths[1]


def test_extrapolation_is_said(fitted):
    notes = predict(fitted, target("int4", N=1e12, D=1e14)).notes
    assert any("N = 1e+12" in n and "beyond the runs" in n for n in notes)


def test_gmse_beyond_that_of_the_runs_is_said(fitted):
    notes = predict(fitted, target("mine", weights_gmse=0.7, N=2e8, D=2e10)).notes
    assert any("GMSE of weights 0.7 is beyond those of the runs" in n for n in notes)


def test_a_format_that_computes_faster_needs_less_of_the_time(fitted):
    """FLOPs are counted as those of dense hardware: half as many at twice the speed."""
    names, budget = [("int4", "dense")], Budget(memory=1e8, tokens=2e10)
    (plain,), (fast,) = (plan(fitted, budget, names, speed).options for speed in (None, {"int4": 2.0}))
    assert plain.flops == pytest.approx(6 * 8e8 / storage_bits("int4") * 2e10)
    assert fast.flops == pytest.approx(plain.flops / 2)
    budget = Budget(flops=1e19)
    (plain,), (fast,) = (plan(fitted, budget, names, speed).options for speed in (None, {"int4": 2.0}))
    assert (
        pytest.approx(2 * plain.prediction.row.N * plain.prediction.row.D)
        == fast.prediction.row.N * fast.prediction.row.D
    )


def best_by_hand(budget, names):
    losses = {}
    for name in names:
        bits = storage_bits(name)
        losses[name] = float(TRUTH.loss(8 * budget / bits, 2e10, rho_of(name)))
    return sorted(losses, key=losses.__getitem__)


def test_memory_budget_ranks_as_the_true_law(fitted):
    names = ["dense", "int8", "int4", "int3", "int2", "int1"]
    found = plan(fitted, Budget(memory=1e8, tokens=2e10), [(n, "dense") for n in names])
    assert [o.prediction.row.weights for o in found.options] == best_by_hand(1e8, names)
    assert found.options[0].behind == 0
    assert all(o.memory == pytest.approx(1e8) for o in found.options)
    assert found.options[-1].told_apart
    assert found.next_run.deviation_after < found.next_run.deviation_before


def test_formats_that_scatter_about_the_law_are_told_apart_less_well(fitted):
    frame = well_spread(120, 0.003, 2)
    misfit = dict(zip(FORMATS, np.random.default_rng(0).normal(0, 0.02, len(FORMATS)), strict=True))
    frame["loss"] += [misfit[w] for w in frame["weights"]]
    scattered = ensemble_of(frame)
    rows = tuple(target(n, N=2e8, D=2e10) for n in ("int7", "int6"))
    spreads = []
    for ensemble in (fitted, scattered):
        predictor = Predictor(ensemble, rows)
        one, other = (predictor.predict(r).draws for r in rows)
        spreads.append(np.std(other - one))
    assert spreads[1] > 1.5 * spreads[0]
    options = plan(scattered, Budget(flops=1e19), [(n, "dense") for n in ("int8", "int1")]).options
    assert options[1].told_apart is True


def test_what_formats_are_off_by_in_nats_is_part_of_predictions(fitted):
    """A format that is better than dense has no departure that says so."""
    frame = well_spread(120, 0.003, 2)
    frame["loss"] -= np.where(frame["weights"] == "int8", 0.03, 0.0)
    odd = ensemble_of(frame)
    assert format_error(fitted) < 0.002
    assert 0.004 < format_error(odd) < 0.03
    row = target("int7", N=2e8, D=2e10)
    widths = [predict(e, row).loss.high - predict(e, row).loss.low for e in (fitted, odd)]
    assert widths[1] > widths[0] + 2 * format_error(odd)


def test_beyond_what_was_tried_nothing_is_told_apart(fitted):
    options = plan(fitted, Budget(flops=1e25), [("dense", "dense"), ("int1", "dense")]).options
    assert options[1].told_apart is None
    assert not options[0].prediction.stated
    assert not np.isfinite(options[0].size.low)


def test_flop_budget_spends_it_all_at_the_optimum(fitted):
    found = plan(fitted, Budget(flops=1e20), [("dense", "dense")]).options[0]
    row = found.prediction.row
    assert pytest.approx(1e20, rel=1e-9) == 6 * row.N * row.D
    posterior = dict(fitted.components([row])[0][1].fit.values)
    law = Scaling(*(posterior[n] for n in ("A", "alpha", "B", "beta", "E")))
    assert law.compute_optimal(1e20)[0] == pytest.approx(row.N, rel=0.03)


def test_the_closed_form_is_the_least_loss():
    for flops, rho in ((1e19, 1.0), (1e22, 0.4)):
        N, D = (float(x) for x in TRUTH.compute_optimal(flops, rho))
        assert pytest.approx(flops) == 6 * N * D
        least = float(TRUTH.loss(N, D, rho))
        assert all(float(TRUTH.loss(N * s, D / s, rho)) > least for s in (0.99, 1.01))
    with pytest.raises(UserError, match="does not fall with tokens"):
        Scaling(1.0, 0.3, 0.0, 0.3, 1.0).compute_optimal(1e20)


@pytest.mark.parametrize("name", ["dense", "int2"])
def test_sizes_under_a_budget_have_intervals_that_hold(fitted, name):
    row = target(name)
    size, ratio = best_size(Predictor(fitted, (row,), 400), row, 1e20)
    N, D = (float(x) for x in TRUTH.compute_optimal(1e20, rho_of(name)))
    assert size.low <= N <= size.high
    assert ratio.low <= D / N <= ratio.high
    assert size.high < 2 * size.low
    assert size.estimate == pytest.approx(N, rel=0.1)
    assert ratio.low == pytest.approx(1e20 / 6 / size.high**2)


def test_an_end_of_the_search_is_no_end_of_an_interval(fitted, monkeypatch):
    row = target("int4")
    predictor = Predictor(fitted, (row,), 40)
    monkeypatch.setattr(planner, "lowest", lambda sizes, losses: sizes[-1])
    size, ratio = best_size(predictor, row, 1e20)
    assert size.high == np.inf
    assert ratio.low == 0


@pytest.mark.parametrize("budget", [{"flops": 1e19}, {"loss": 2.6, "tokens": 2e10}, {"memory": 1e8, "tokens": 2e10}])
def test_formats_have_the_rotation_that_the_table_gives_them(budget):
    frame = well_spread(120, 0.003, 2)
    frame["hadamard"] = np.where(frame["weights"] == "dense", np.nan, 128.0)
    rotated = ensemble_of(frame)
    pairs = [(n, "dense") for n in ("dense", "int4", "top50")]
    options = plan(rotated, Budget(**budget), pairs).options
    assert {o.prediction.row.hadamard for o in options if not o.prediction.row.is_dense} == {"128"}
    (int4,) = (o.prediction for o in options if o.prediction.row.weights == "int4")
    assert int4.rho.high - int4.rho.low < 0.05  # one that was trained


def test_a_row_is_predicted_with_its_own_rotation_whatever_most_runs_have():
    """Two in three compressed runs are rotated; the others are worth less."""
    frame = well_spread(150, 0.003, 2, ("dense", "int2", "int3", "int4", "int2", "int3", "int4"))
    plain = (np.arange(len(frame)) % 7 > 3) & (np.arange(len(frame)) % 2 == 0)
    frame["hadamard"] = np.where(plain | (frame["weights"] == "dense"), np.nan, 128.0)
    less = [
        float(TRUTH.loss(N, D, rho_of(w) ** 1.5) - TRUTH.loss(N, D, rho_of(w)))
        for N, D, w in frame.values[:, [0, 1, 3]]
    ]
    frame["loss"] += np.where(plain, less, 0.0)
    ensemble = ensemble_of(frame)
    asked = target("int3", N=2e8, D=2e10)
    for row, rho in ((asked, rho_of("int3") ** 1.5), (asked._replace(hadamard="128"), rho_of("int3"))):
        found = predict(ensemble, row)
        assert found.row == row
        assert found.rho.estimate == pytest.approx(rho, abs=0.03)
        assert found.loss.low < float(TRUTH.loss(2e8, 2e10, rho)) < found.loss.high
    assert target("int3", N=2e8, D=2e10, runs=ensemble.table).hadamard == "128"


def test_runs_of_one_number_of_tokens_divide_no_budget():
    frame = well_spread(60, 0.003, 2)
    frame["D"] = 2e10
    row = target("int4")
    with pytest.raises(UserError, match=r"every run has D = 2e\+10"):
        best_size(Predictor(ensemble_of(frame), (row,), 50), row, 1e20)


def test_speed_makes_a_format_win(fitted):
    pairs = [("dense", "dense"), ("int4", "dense")]
    assert plan(fitted, Budget(flops=1e19), pairs).options[0].prediction.row.weights == "dense"
    assert plan(fitted, Budget(flops=1e19), pairs, {"int4": 4.0}).options[0].prediction.row.weights == "int4"


def test_target_loss_is_reached_with_least_memory(fitted):
    options = plan(fitted, Budget(loss=2.6, tokens=2e10), [("dense", "dense"), ("int4", "dense")]).options
    assert options[0].prediction.row.weights == "int4"
    assert all(o.prediction.loss.estimate == pytest.approx(2.6, abs=1e-6) for o in options)
    assert options[1].behind == pytest.approx(options[1].memory / options[0].memory)
    with pytest.raises(UserError, match="out of reach"):
        plan(fitted, Budget(loss=1.5, tokens=2e10), [("dense", "dense")])


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"memory": 1.0, "flops": 1.0}, "one of --memory"),
        ({}, "one of --memory"),
        ({"memory": -1.0, "tokens": 1.0}, "memory=-1.0 must be above 0"),
        ({"memory": 1.0}, "--tokens and --tokens-per-parameter"),
        ({"flops": 1.0, "tokens": 1.0}, "chooses the tokens itself"),
    ],
)
def test_bad_budgets(budget, message):
    with pytest.raises(UserError, match=message):
        Budget(**budget)


def test_unknown_storage(fitted):
    with pytest.raises(UserError, match="q8_0: not in the catalog"):
        storage_bits("q8_0")
    assert np.isfinite(storage_bits("2:4+int4"))


def test_memory_is_of_the_cache_as_well(fitted):
    """Sizes leave room for it: weights and cache together are the budget, and a smaller cache a larger model."""
    budget, pairs = Budget(memory=1e8, tokens=2e10), [("int4", "dense"), ("dense", "dense")]

    def cache(N):
        return 40.0 * N**0.75

    alone, both = plan(fitted, budget, pairs, count=50), plan(fitted, budget, pairs, count=50, cache=cache)
    for option in both.options:
        row = option.prediction.row
        assert option.cache == pytest.approx(cache(row.N))
        assert option.memory == pytest.approx(row.N * storage_bits(row.weights) / 8 + cache(row.N))
        assert option.memory == pytest.approx(1e8)
    before = {option.prediction.row.weights: option.prediction.row.N for option in alone.options}
    assert all(before[option.prediction.row.weights] > option.prediction.row.N for option in both.options)
    assert {option.cache for option in alone.options} == {0.0}
    with pytest.raises(UserError, match="the cache alone takes more; give a shorter --context"):
        plan(fitted, budget, pairs, count=50, cache=lambda N: 2e8 * N**0.01)


def test_least_memory_counts_the_cache(fitted):
    found = plan(
        fitted, Budget(loss=2.9, tokens=2e10), [("int4", "dense"), ("dense", "dense")], count=50, cache=lambda N: N
    )
    for option in found.options:
        row = option.prediction.row
        assert option.memory == pytest.approx(row.N * storage_bits(row.weights) / 8 + row.N)
        assert option.behind == pytest.approx(option.memory / found.options[0].memory)
