import numpy as np
import pytest
from scipy.optimize import minimize
from support.cases import parametrize
from support.synthetic import RHO, TRUTH, frame_of, rho_of, well_spread

from capscale.analysis.conditioning import conditioning
from capscale.analysis.fit import Constraints, Settings, fit
from capscale.analysis.inspection import inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.limits import penalty
from capscale.analysis.profiles import profile
from capscale.analysis.sentences import fits
from capscale.analysis.sentences.rule import say
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.errors import UserError


def table_of(frame):
    return make_table(frame.to_dict("records"), "synthetic")


NAMES = ("tanh", "decoupled", "tanh-sat", "logistic", "kumar", "tanh-coupled")
TABLE = table_of(well_spread(60, 0.003, 0))


def huber_sum(z, fitted, weight):
    r = fitted.problem.predict(z) - fitted.problem.loss
    a, d = np.abs(r), fitted.settings.delta
    return float(np.sum(weight * np.where(a <= d, 0.5 * r * r, d * (a - 0.5 * d))))


@parametrize(
    ("delta", "name"),
    [
        *((1e-3, name) for name in NAMES),
        *(pytest.param(1e-1, name, marks=pytest.mark.slow) for name in NAMES),
    ],
    default=2,
)
def test_objective_is_at_least_as_low_as_scipy_finds(name, delta):
    fitted = fit(TABLE, LAWS[name], Settings(delta=delta))
    assert fitted.converged
    weight = np.ones(len(TABLE))
    assert fitted.objective == pytest.approx(huber_sum(fitted.z, fitted, weight), rel=1e-12)
    bounds = list(zip(fitted.lower, fitted.upper, strict=True))
    for start in (fitted.z, fitted.z + 0.02, fitted.optima[-1]):
        other = minimize(
            huber_sum, np.clip(start, fitted.lower, fitted.upper), (fitted, weight), "L-BFGS-B", bounds=bounds,
            options={"maxiter": 3000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-12},
        )  # fmt: skip
        assert fitted.objective <= other.fun + 1e-9


def test_resamples_reach_their_own_optima():
    fitted = fit(TABLE, LAWS["tanh"])
    weight = np.random.default_rng(3).exponential(size=(24, len(TABLE)))
    once = fitted.solve(fitted.batch(np.tile(fitted.z, (24, 1)), weight=weight))
    starts = np.repeat(weight, 8, axis=0)
    wide = fitted.z + np.random.default_rng(4).normal(0, 0.05, (192, len(fitted.z)))
    many = fitted.solve(fitted.batch(wide, weight=starts)).objective.reshape(24, 8).min(1)
    assert np.all(once.objective - many <= 1e-9)


def test_resamples_are_refits_on_weighted_rows_whose_residuals_are_widened():
    """Against the refit of each weighting by itself. 7 numbers are fitted to 60 rows: sqrt(60 / chi2) is 1.07 about."""
    fitted = fit(TABLE, LAWS["tanh"], Settings(shared="none"))
    draws = bootstrap(fitted, 8, seed=11)
    random = np.random.default_rng(11)
    weight, _ = random.exponential(size=(8, len(TABLE))), fitted.shared.draw(random, 8)
    widen = np.sqrt(len(TABLE) / random.chisquare(len(TABLE) - 7, 8))
    target = fitted.predicted + widen[:, None] * fitted.residuals
    alone = fitted.solve(fitted.batch(np.tile(fitted.z, (8, 1)), weight=weight, target=target))
    np.testing.assert_allclose(draws.z, alone.z, rtol=1e-9, atol=1e-9)
    narrow = fitted.solve(fitted.batch(np.tile(fitted.z, (8, 1)), weight=weight))
    assert np.abs(narrow.z - alone.z).max() > 1e-3


def test_the_seed_of_the_settings_decides_the_resamples():
    one, other = (fit(TABLE, LAWS["decoupled"], Settings(starts=4, seed=seed)) for seed in (1, 2))
    assert np.array_equal(bootstrap(one, 4).z, bootstrap(one, 4, seed=1).z)
    assert np.array_equal(bootstrap(other, 4).z, bootstrap(other, 4, seed=2).z)
    assert not np.allclose(bootstrap(one, 4).z, bootstrap(one, 4, seed=2).z)


def test_a_prior_weighs_by_the_noise_over_its_deviation():
    """That of a scale, which is fitted as its logarithm, by its relative deviation."""
    fitted = fit(TABLE, LAWS["logistic"], Settings(starts=4))
    constraints = Constraints(priors={"scale": (8.0, 0.4), "alpha": (0.3, 0.02)})
    held = penalty(fitted.problem, constraints, 1e-6)
    scale, alpha = (fitted.problem.names.index(name) for name in ("scale", "alpha"))
    assert held.centre[[scale, alpha]] == pytest.approx([np.log(8), 0.3])
    assert held.precision[[scale, alpha]] == pytest.approx([1e-6 / 0.05**2, 1e-6 / 0.02**2])
    assert np.count_nonzero(held.precision) == 2


def test_the_same_for_any_order_of_rows():
    shuffled = table_of(well_spread(60, 0.003, 0).sample(frac=1, random_state=7))
    one, other = fit(TABLE, LAWS["tanh"]), fit(shuffled, LAWS["tanh"])
    assert np.array_equal(one.z, other.z)
    assert np.array_equal(bootstrap(one, 16).z, bootstrap(other, 16).z)


def test_noiseless_runs_give_the_truth_back():
    fitted = fit(table_of(well_spread(60, 0.0, 0)), LAWS["tanh"])
    for name in ("A", "alpha", "B", "beta", "E"):
        assert fitted.values[name] == pytest.approx(getattr(TRUTH, name), rel=1e-4)
    for name, value in RHO.values:
        assert fitted.values[name] == pytest.approx(value, rel=1e-4)
    assert fitted.rho["int2"] == pytest.approx(rho_of("int2"), rel=1e-5)


def test_an_outlier_moves_least_squares_and_not_huber():
    frame = well_spread(60, 0.003, 0)
    frame.loc[10, "loss"] += 0.3
    table = table_of(frame)
    off = [abs(fit(table, LAWS["tanh"], Settings(delta=d)).values["alpha"] - TRUTH.alpha) for d in (1e-3, 10.0)]
    assert off[0] < 0.01 < off[1]


def test_fixed_numbers_hold_and_priors_pull():
    free = fit(TABLE, LAWS["tanh"])
    fixed = fit(TABLE, LAWS["tanh"], constraints=Constraints({"alpha": 0.3, "A": 300.0}))
    assert fixed.values["alpha"] == 0.3
    assert fixed.values["A"] == pytest.approx(300.0, rel=1e-12)
    assert fixed.objective > free.objective
    weak = fit(TABLE, LAWS["tanh"], constraints=Constraints(priors={"alpha": (0.5, 10.0)}))
    strong = fit(TABLE, LAWS["tanh"], constraints=Constraints(priors={"alpha": (0.5, 1e-4)}))
    assert weak.values["alpha"] == pytest.approx(free.values["alpha"], abs=1e-3)
    assert strong.values["alpha"] == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints({"gamma": 1.0}), "has no number 'gamma'"),
        (Constraints({"A": -1.0}), "A=-1 must be finite and positive"),
        (Constraints({"alpha": 9.0}), "alpha=9 lies outside"),
        (Constraints(priors={"A": (1.0, 1.0)}), "prior on A depends on the units"),
        (Constraints(priors={"E": (1.0, 0.0)}), "standard deviation must be positive"),
    ],
)
def test_bad_constraints(constraints, message):
    with pytest.raises(UserError, match=message):
        fit(TABLE, LAWS["tanh"], constraints=constraints)


def test_capacities_need_a_unit():
    compressed = TABLE.select(np.array([not r.is_dense for r in TABLE.rows]))
    with pytest.raises(UserError, match="no dense rows"):
        fit(compressed, LAWS["decoupled"])
    anchored = fit(compressed, LAWS["decoupled"], constraints=Constraints({"rho[int8]": 1.0}))
    assert anchored.rho["int4"] == pytest.approx(rho_of("int4") / rho_of("int8"), rel=0.05)


def test_what_no_law_can_be_fitted_to_is_refused():
    rows = [r._asdict() for r in TABLE.rows]
    with pytest.raises(UserError, match=r"7 free numbers and x 7 rows: none is left.*--fix"):
        fit(make_table(rows[::9], "x"), LAWS["tanh"])
    with pytest.raises(UserError, match="every run has the loss 3: nothing depends"):
        fit(make_table([r | {"loss": 3.0} for r in rows], "x"), LAWS["tanh"])
    assert fit(make_table(rows[::8], "x"), LAWS["tanh"], Settings(starts=4)).objective >= 0


def test_laws_say_what_they_cannot_read():
    with pytest.raises(UserError, match="frantar reads sparsity and 'int"):
        fit(TABLE, LAWS["frantar"])
    with pytest.raises(UserError, match="dense rows only"):
        fit(TABLE, LAWS["dense"])


def warned(frame, law="tanh"):
    return say(fits.RULES, inspect(fit(table_of(frame), LAWS[law])))


@pytest.mark.ci
def test_constant_ratio_is_called_unidentified_and_a_good_design_is_not():
    N = np.repeat(np.geomspace(3e7, 8e8, 6), 6)
    frame = frame_of(
        N, 98.0 * N, [*("dense", "int1", "int2", "int3", "int4", "int8")] * 6, 0.003, np.random.default_rng(0)
    )
    assert any(s.rule == "constant ratio" and "every D/N is 98" in s.text for s in warned(frame))
    dense = warned(frame_of(N, 98.0 * N, ["dense"] * 36, 0.003, np.random.default_rng(0)), "dense")
    assert any(s.rule == "unidentified" and s.text.split()[0] in ("alpha", "beta", "E") for s in dense)
    good = warned(well_spread(240, 0.003, 1))
    assert not {s.rule for s in good} & {"constant ratio", "one size", "two sizes", "unidentified", "bound"}


def test_one_number_of_tokens_folds_the_data_term_into_E():
    N = np.repeat(np.geomspace(3e7, 8e8, 6), 2)
    frame = frame_of(N, np.full(12, 2e10), ["dense", "int4"] * 6, 0.003, np.random.default_rng(0))
    fitted = fit(table_of(frame), LAWS["decoupled"])
    assert "B" not in fitted.values
    assert fitted.rho["int4"] == pytest.approx(rho_of("int4"), abs=0.05)
    assert any("B D^-beta cannot be told from E" in s.text for s in say(fits.RULES, inspect(fitted, profiled=False)))


def test_huber_threshold_that_never_acts_is_said():
    said = say(fits.RULES, inspect(fit(TABLE, LAWS["tanh"], Settings(delta=10.0)), profiled=False))
    assert any(s.rule == "least squares" for s in said)


def test_profile_and_bootstrap_agree_with_linear_theory():
    fitted = fit(table_of(well_spread(240, 0.003, 5)), LAWS["tanh"], Settings(delta=1.0))
    about = conditioning(fitted)
    draws = bootstrap(fitted, 400)
    for name in ("alpha", "E", "F", "C"):
        deviation = about.deviation[about.names.index(name)]
        low, high = profile(fitted, name).interval()[1:]
        assert (high - low) / 2 / 1.96 == pytest.approx(deviation, rel=0.15)
        assert draws.spread(name) == pytest.approx(deviation, rel=0.25)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """100 draws of a well-spread design with noise 0.003: every number in its interval, and all of them at once."""
    truth = dict(RHO.values) | {n: getattr(TRUTH, n) for n in ("A", "B", "alpha", "beta", "E")}
    alone, together = dict.fromkeys(truth, 0), 0
    for seed in range(100):
        fitted = fit(table_of(well_spread(120, 0.003, 1000 + seed)), LAWS["tanh"], Settings(starts=8))
        draws = bootstrap(fitted, 500)
        for name, value in truth.items():
            low, high = draws.interval(name)[1:]
            alone[name] += low <= value <= high
        together += all(i.low <= truth[n] <= i.high for n, i in draws.simultaneous().items())
    assert min(alone.values()) >= 90, alone
    assert together >= 90, alone


@pytest.mark.slow
def test_ten_thousand_rows():
    fitted = fit(table_of(well_spread(10_000, 0.003, 0)), LAWS["tanh"], Settings(starts=8))
    assert fitted.values["F"] == pytest.approx(0.41, abs=0.01)
    assert bootstrap(fitted, 8).converged.all()
