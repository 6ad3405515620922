"""Errors on held-out runs, and the intervals stated of them."""

from dataclasses import replace

import numpy as np
import pytest
from support.cases import parametrize
from support.synthetic import RHO, TRUTH, frame_of

from capscale.analysis.ensemble import combined
from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.leaderboard import law_bench
from capscale.analysis.operands import facts, gaussian_error
from capscale.analysis.rollouts import longest_left_out, size_cut, usable
from capscale.analysis.table import Table, make_table
from capscale.analysis.validation import format_masks, validate, validate_ensemble

NAMES = ("dense", "int2", "int4", "top50", "2:4", "2:4+int4", "top50+int4")
NOISE = 0.004
QUICK = Settings(starts=16, shared="none")


def sparse_and_quantized(product: bool) -> Table:
    """Runs whose composed formats have either the capacity of the joint error, or the product of the stages'."""
    random, rows = np.random.default_rng(0), []
    for name in NAMES:
        stages = facts(name).stages if product else (name,)
        rho = np.prod([1.0 if s == "dense" else float(RHO.rho(gaussian_error(s))) for s in stages])
        for N in np.geomspace(3e7, 1e9, 5):
            for ratio in (20, 200):
                loss = float(TRUTH.loss(N, ratio * N, rho) + random.normal(0, 0.002))
                rows.append({"N": N, "D": ratio * N, "loss": loss, "weights": name, "activations": "dense"})
    return make_table(rows, "x")


@pytest.fixture(scope="module")
def grid() -> Table:
    """Runs of the additive law: 6 sizes, 4 lengths of training, dense and 3 formats."""
    N = np.repeat(np.geomspace(3e7, 1e9, 6).round(), 16)
    D = N * np.tile(np.repeat([20, 60, 180, 540], 4), 6)
    frame = frame_of(N, D, ["dense", "int2", "int3", "int4"] * 24, NOISE, np.random.default_rng(2))
    return make_table(frame.to_dict("records"), "grid")


@parametrize("product", [False, True], default=[True])
def test_bench_tells_joint_error_from_product_of_stages(product):
    bench = {v.name: v for v in law_bench(sparse_and_quantized(product), [LAWS["tanh"]], QUICK).lines}
    right, wrong = ("tanh-product", "tanh") if product else ("tanh", "tanh-product")
    assert bench[right].rmse < 0.0025
    assert bench[wrong].rmse > 1.3 * bench[right].rmse


def test_folds_cover_every_compressed_row_once():
    table = sparse_and_quantized(False)
    dense = np.array([r.is_dense for r in table.rows])
    np.testing.assert_array_equal(sum(m.astype(int) for m in format_masks(table).values()), ~dense)


def test_held_out_rows_have_no_say():
    table = sparse_and_quantized(False)
    before = {f.name: f for f in validate(table, LAWS["tanh"]).formats}["int2"]
    records = [r._asdict() | {"loss": r.loss + 0.2 * (r.curve == "int2")} for r in table.rows]
    after = {f.name: f for f in validate(make_table(records, "x"), LAWS["tanh"]).formats}["int2"]
    np.testing.assert_allclose(after.errors, before.errors + 0.2, atol=1e-4)


@pytest.mark.parametrize("axis", ["N", "D"])
def test_rollouts_are_refits_to_the_runs_below_the_cut(grid, axis):
    cut = size_cut(grid, 2e8) if axis == "N" else longest_left_out(grid, 2)
    assert cut.test.sum() == 48
    (fold,) = validate(grid, LAWS["decoupled"], [cut], QUICK).along(axis)
    alone = fit(grid.select(cut.train), LAWS["decoupled"], QUICK)
    rows = [r for r, held in zip(grid.rows, cut.test, strict=True) if held]
    by_hand = grid.column("loss")[cut.test] - alone.problem.predict(alone.z, alone.problem.gather(rows))
    np.testing.assert_allclose(fold.errors, by_hand, atol=2e-5)


def test_intervals_of_the_right_law_cover_and_are_as_wide_as_the_noise(grid):
    cuts = [size_cut(grid, 2e8), size_cut(grid, 4e8), longest_left_out(grid, 1), longest_left_out(grid, 2)]
    found = validate(grid, LAWS["tanh"], cuts)
    assert len(found.beyond) == 4
    assert 0.9 <= found.inside <= 1
    assert 2 * 1.96 * NOISE < found.width < 1.4 * 2 * 1.96 * NOISE


def test_losses_off_beyond_the_cut_are_outside(grid):
    cut = size_cut(grid, 2e8)
    off = replace(grid, rows=tuple(r._replace(loss=r.loss + 0.1 * (r.N > 2e8)) for r in grid.rows))
    (fold,) = validate(off, LAWS["tanh"], [cut], QUICK).along("N")
    assert not fold.inside.any()
    assert fold.errors.mean() == pytest.approx(0.1, abs=0.01)


def test_a_law_that_a_table_cannot_carry_says_why(grid):
    found = validate(grid, LAWS["frantar"], [size_cut(grid, 2e8)])
    assert found.fit is None
    assert "sparsity" in found.why
    assert not found.beyond


@pytest.mark.ci
def test_a_lone_format_is_not_held_out(grid):
    one = grid.select(np.array([r.weights in ("dense", "int3") for r in grid.rows]))
    assert validate(one, LAWS["qid"], (), QUICK).formats == ()
    assert {f.name for f in validate(grid, LAWS["qid"], (), QUICK).formats} == {"int2", "int3", "int4"}


def test_an_ensemble_is_calibrated_by_the_other_cuts(grid):
    cuts = [usable(grid, size_cut(grid, limit)) for limit in (1.3e8, 2.6e8, 5e8)]
    lines = [validate(grid, LAWS[name], cuts, QUICK) for name in ("tanh", "tanh-coupled")]
    fits = [v.fit for v in lines if v.fit is not None]
    ensemble = combined(fits, list(zip(*(v.tried for v in lines), strict=True)))
    before = validate_ensemble(ensemble)
    assert before.name == "ensemble (2 laws)"
    assert [f.name for f in before.beyond] == [c.words for c in cuts]
    missed = replace(ensemble.folds[0], error=ensemble.folds[0].error + 1.0)
    after = validate_ensemble(replace(ensemble, folds=(missed, *ensemble.folds[1:])))
    np.testing.assert_array_equal(after.beyond[0].width, before.beyond[0].width)
    assert not after.beyond[0].inside.any()
    assert all(np.all(a.width > 3 * b.width) for a, b in zip(after.beyond[1:], before.beyond[1:], strict=True))
