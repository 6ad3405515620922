"""Errors that rows share, against dense matrices, and what fits make of them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm
from scipy.stats import t as student
from support.synthetic import frame_of

from capscale.analysis.calibration import Reference, references
from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.shared_errors import ABSENT, DEVIATIONS, SharedErrors, infer, log_likelihood, shared_levels
from capscale.analysis.solver import float64_on_cpu
from capscale.analysis.table import make_table
from capscale.analysis.uncertainty import bootstrap
from capscale.analysis.whitening import whiten
from capscale.errors import UserError

FORMATS = ("dense", "int4", "int3", "int2")
NESTED = np.array([[0, 0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 6], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]])


def designed(*, size=0.0, cell=0.0, noise=0.004, seed=0, sizes=4, tokens=4):
    """Formats on a grid of sizes and tokens per parameter, with normal errors by size, by cell and by row."""
    random = np.random.default_rng(seed)
    N, ratio = np.geomspace(3e7, 1e9, sizes).round(), np.geomspace(25, 200, tokens)
    at = [(n, r, f) for n in range(sizes) for r in range(tokens) for f in FORMATS]
    n, r = (np.array([a[k] for a in at]) for k in (0, 1))
    frame = frame_of(N[n], (N[n] * ratio[r]).round(), [a[2] for a in at], noise, random)
    frame["loss"] += random.normal(0, size, sizes)[n] + random.normal(0, cell, (sizes, tokens))[n, r]
    return make_table(frame.to_dict("records"), "designed")


def covariance(group, ratio, active):
    """V, row by row."""
    V = np.eye(group.shape[1])
    for mine, share in zip(group, ratio, strict=True):
        V += share * (mine[:, None] == mine) * np.outer(active, active)
    return V


@pytest.mark.parametrize("ratio", [(0.0, 0.0), (3.0, 0.0), (0.0, 0.7), (2.0, 5.0), (1e4, 1e2)])
@pytest.mark.parametrize("left_out", [(), (1, 4, 9)])
def test_whitening_makes_the_covariance_the_identity(ratio, left_out):
    active = ~np.isin(np.arange(12), left_out)
    W = whiten(np.eye(12), NESTED, np.array(ratio), active)
    np.testing.assert_allclose(W @ covariance(NESTED, ratio, active) @ W.T, np.eye(12), atol=1e-9)
    with float64_on_cpu():
        by_jax = whiten(jnp.eye(12), jnp.asarray(NESTED), jnp.asarray(ratio), jnp.asarray(active))
    np.testing.assert_allclose(by_jax, W, atol=1e-12)


def test_whitening_is_the_identity_bit_for_bit_where_nothing_is_shared():
    x = np.random.default_rng(0).normal(size=(12, 3))
    assert np.array_equal(whiten(x, NESTED, np.zeros(2), np.ones(12, bool)), x)
    assert np.array_equal(whiten(x, NESTED[:0], np.zeros(0), np.ones(12, bool)), x)


def test_the_posterior_is_that_of_the_restricted_likelihood():
    """Ratios of posterior probabilities, against determinants of dense matrices."""
    random = np.random.default_rng(1)
    J = np.column_stack([np.ones(12), random.normal(size=(12, 2))])
    r = random.normal(size=12) + random.normal(0, 2, 3)[NESTED[1]]
    shared = SharedErrors(("cell", "size"), NESTED, np.zeros(2), np.zeros((1, 2)), np.ones(1), np.arange(12))
    found = infer(shared, r, J, np.ones(12, bool))

    def log_posterior(ratio):
        inverse = np.linalg.inv(V := covariance(NESTED, ratio, np.ones(12)))
        inner = J.T @ inverse @ J
        rest = r - J @ np.linalg.solve(inner, J.T @ inverse @ r)
        likelihood = -0.5 * (9 * np.log(rest @ inverse @ rest) + np.linalg.slogdet(V)[1] + np.linalg.slogdet(inner)[1])
        relative = np.sqrt([ratio[0], ratio[1] / (1 + ratio[0])])
        mass = DEVIATIONS / (1 + DEVIATIONS**2) / np.sum(DEVIATIONS / (1 + DEVIATIONS**2))
        prior = [(1 - ABSENT) * np.interp(d, DEVIATIONS, mass) if d > 0 else ABSENT for d in relative]
        return likelihood + np.sum(np.log(prior))

    picked = [0, *random.choice(len(found.grid), 40, replace=False)]
    expected = np.array([log_posterior(found.grid[i]) for i in picked])
    actual = np.log(found.probability[picked])
    np.testing.assert_allclose(actual - actual[0], expected - expected[0], atol=1e-6)
    assert found.probability.sum() == pytest.approx(1)


def test_the_likelihood_of_a_law_is_that_of_all_ratios():
    """A sum over the grid of determinants of dense matrices; laws differ in a column, and in how many they have."""
    random = np.random.default_rng(3)
    J = np.column_stack([np.ones(12), random.normal(size=(12, 3))])
    r = random.normal(size=12) + random.normal(0, 2, 3)[NESTED[1]]
    shared = SharedErrors(("cell", "size"), NESTED, np.zeros(2), np.zeros((1, 2)), np.ones(1), np.arange(12))
    mass = np.where(DEVIATIONS > 0, (1 - ABSENT) * DEVIATIONS / (1 + DEVIATIONS**2), 0.0)
    mass *= (1 - ABSENT) / mass.sum()
    mass[0] = ABSENT
    points = [(f, c) for f in range(len(mass)) for c in range(len(mass))]

    def dense(columns):
        U = np.linalg.qr(J[:, columns])[0]  # its determinant is 1 where nothing is shared
        found = 0.0
        for fine, coarse in points:
            ratio = np.array([DEVIATIONS[fine] ** 2, DEVIATIONS[coarse] ** 2 * (1 + DEVIATIONS[fine] ** 2)])
            inverse = np.linalg.inv(V := covariance(NESTED, ratio, np.ones(12)))
            inner = U.T @ inverse @ U
            rest = r - U @ np.linalg.solve(inner, U.T @ inverse @ r)
            squares = (rest @ inverse @ rest) ** -4  # 12 rows less the 4 numbers of the larger law, halved
            found += mass[fine] * mass[coarse] * squares / np.sqrt(np.linalg.det(V) * np.linalg.det(inner))
        return np.log(found)

    laws = [0, 1, 2], [0, 1, 3], [0, 1, 2, 3]
    found = [log_likelihood(shared, r, J[:, law], np.ones(12, bool), 8) for law in laws]
    np.testing.assert_allclose(found, [dense(law) for law in laws], rtol=1e-6)
    alone = replace(shared, levels=(), group=NESTED[:0], ratio=np.zeros(0))
    rest = r - J @ np.linalg.lstsq(J, r)[0]
    assert log_likelihood(alone, r, J, np.ones(12, bool), 8) == pytest.approx(-4 * np.log(rest @ rest))


def test_effects_are_the_best_linear_predictions():
    random = np.random.default_rng(2)
    r, active, ratio = random.normal(size=12), np.arange(12) != 5, np.array([2.0, 3.0])
    shared = SharedErrors(("cell", "size"), NESTED, ratio, ratio[None], np.ones(1), np.arange(12))
    solved = np.linalg.solve(covariance(NESTED, ratio, active), np.where(active, r, 0.0))
    for mine, share, level in zip(NESTED, ratio, shared.levels, strict=True):
        expected = share * np.array([solved[(mine == g) & active].sum() for g in range(mine.max() + 1)])
        np.testing.assert_allclose(shared.effects(r, active)[level], expected, atol=1e-12)


def test_levels_that_a_table_has():
    assert shared_levels(designed()).levels == ("cell", "size")
    assert shared_levels(designed(tokens=1)).levels == ("size",)  # each of its cells is a size
    assert shared_levels(designed(sizes=1)).levels == ("cell",)
    assert shared_levels(designed(), "none").levels == ()
    assert shared_levels(designed(), ("size",)).levels == ("size",)
    for table, asked, why in (
        (designed(), ("run",), "no error is shared by run: every row has a run of its own"),
        (designed(sizes=1), ("size",), "all rows have one size"),
        (designed(tokens=1), ("cell", "size"), "cell and size are the same rows"),
    ):
        with pytest.raises(UserError, match=why):
            shared_levels(table, asked)


def checkpoints(offset=0.006, noise=1e-4, seed=0):
    """Ten checkpoints of one run of every size and format; a run's error stays with it."""
    random = np.random.default_rng(seed)
    at = [(N, f, k) for N in (3e7, 1e8, 3e8, 1e9) for f in FORMATS for k in range(1, 11)]
    N, k = (np.array([a[i] for a in at]) for i in (0, 2))
    frame = frame_of(N, N * 20 * k, [a[1] for a in at], noise, random)
    frame["run"] = [f"{f}-{n:g}" for n, f, _ in at]
    frame["loss"] += np.repeat(random.normal(0, offset, 16), 10)
    return make_table(frame.to_dict("records"), "checkpoints")


def test_checkpoints_are_trajectories_and_drawn_together():
    shared = shared_levels(checkpoints())
    assert shared.levels == ("run", "size")
    assert len(np.unique(shared.unit)) == 16
    with pytest.raises(UserError, match="run or cell, not both"):
        shared_levels(checkpoints(), ("run", "cell"))


def test_independent_rows_have_the_objective_they_had():
    table = designed(seed=3)
    alone, auto = (fit(table, LAWS["tanh"], Settings(starts=8, shared=s)) for s in ("none", "auto"))
    assert np.array_equal(auto.shared.ratio, [0.0, 0.0])
    assert np.array_equal(alone.z, auto.z)
    assert alone.objective == auto.objective
    assert max(auto.shared.present.values()) < 0.5


def test_an_error_of_cells_is_found_and_whitened_out():
    table = designed(cell=0.012, seed=2)
    found = fit(table, LAWS["tanh"], Settings(starts=8))
    assert found.shared.present["cell"] > 0.95
    assert np.sqrt(found.shared.ratio[found.shared.levels.index("cell")]) == pytest.approx(3, rel=0.5)

    def objective(z):
        problem = found.problem
        r = found.whiten(problem.predict(z) - problem.loss)
        a, d = np.abs(r), found.settings.delta
        return float(np.sum(np.where(a <= d, 0.5 * r * r, d * (a - 0.5 * d))))

    assert found.objective == pytest.approx(objective(found.z), rel=1e-12)
    bounds = list(zip(found.lower, found.upper, strict=True))
    for start in (found.z, found.z + 0.02):
        options = {"maxiter": 3000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-12}
        other = minimize(
            objective, np.clip(start, *np.array(bounds).T), method="L-BFGS-B", bounds=bounds, options=options
        )
        assert found.objective <= other.fun + 1e-9


def test_an_error_shared_by_size_is_in_the_intervals():
    """By linear theory, with 24 draws of an error by size: taken as independent, alpha is missed by half of them."""
    base = fit(designed(noise=0.0), LAWS["tanh"], Settings(starts=4))
    J, size = base.problem.jacobian(base.z), np.unique(base.table.column("N"), return_inverse=True)[1]
    alpha, covered = base.problem.names.index("alpha"), {"auto": 0, "none": 0}
    for seed in range(24):
        random = np.random.default_rng(seed)
        errors = random.normal(0, 0.004, len(size)) + random.normal(0, 0.006, 4)[size]
        for asked in covered:
            shared = infer(shared_levels(base.table, asked), errors, J, np.ones(len(size), bool))
            drawn = replace(base, problem=replace(base.problem, loss=base.predicted + errors), shared=shared)
            both = drawn.whiten(np.column_stack([J, errors]))
            off, (left,), *_ = np.linalg.lstsq(both[:, :-1], both[:, -1])
            spread = np.sqrt(left / drawn.freedom * np.linalg.inv(both[:, :-1].T @ both[:, :-1])[alpha, alpha])
            covered[asked] += (off[alpha] / spread) ** 2 <= references(drawn)[alpha].limit(0.95)
    assert covered["auto"] >= 21
    assert covered["none"] <= 18


def test_resamples_fill_the_valley_of_a_flat_objective_wherever_the_fit_stands_in_it():
    """Of one size, alpha and rho are anything: the fit ends at a point of the valley that rounding chooses."""
    found = fit(designed(sizes=1, seed=4), LAWS["decoupled"], Settings(starts=8))
    alpha, rho = np.array([0.1, 2.5]), np.array([0.001, 0.5])
    held = [found.problem.names.index(name) for name in ("alpha", "rho[int4]")]
    lower, upper = (np.tile(bound, (2, 1)) for bound in (found.lower, found.upper))
    lower[:, held] = upper[:, held] = np.column_stack([alpha, np.log(rho[::-1])])
    ends = found.solve(found.batch(np.tile(found.z, (2, 1)), lower=lower, upper=upper))
    np.testing.assert_allclose(ends.objective, found.objective, rtol=1e-6)
    for z in ends.z:
        draws = bootstrap(replace(found, z=z), 60)
        for name, inside in (("alpha", alpha), ("rho[int4]", rho)):
            _, low, high = draws.interval(name)
            assert low < inside.min()
            assert high > inside.max()


def test_few_runs_have_the_limit_of_students_t():
    one = Reference(np.ones(1), np.zeros(1), np.ones(1), 3)
    assert one.limit(0.95) == pytest.approx(student.ppf(0.975, 3) ** 2)
    wide = Reference(np.array([0.5, 0.5]), np.zeros(2), np.array([1.0, 3.0]), 10_000)
    reach = np.sqrt(wide.limit(0.95))
    assert norm.cdf(reach) + norm.cdf(reach / 3) - 1 == pytest.approx(0.95, abs=1e-3)
