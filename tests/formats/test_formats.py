"""Promises of single formats beyond the table: exact counts, state, schedules, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT, Context, per_row
from capscale.formats.compose import SparseQuantized
from capscale.formats.floats import E2M1, E4M3
from capscale.formats.grids import Int
from capscale.formats.noise import Noise
from capscale.formats.outliers import Outliers
from capscale.formats.pattern import NM
from capscale.formats.rigl import RigL
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, Learned, PowerOfTwo, TwoLevel
from capscale.formats.schedule import Cubic
from capscale.formats.sparse import TopK
from capscale.formats.vector import Vector
from capscale.testing import gaussian

X = gaussian()
X64 = np.asarray(X, np.float64)


@pytest.mark.parametrize("granularity", ["row", "matrix"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99])
def test_top_k_keeps_exactly_k(sparsity, granularity):
    kept = jax.jit(lambda x: TopK(sparsity, granularity).project(x, NO_CONTEXT).keep)
    for x in (X, jnp.round(X), jnp.ones_like(X)):
        keep = np.asarray(kept(x))
        if granularity == "row":
            np.testing.assert_array_equal(keep.sum(axis=1), round((1 - sparsity) * 256))
        else:
            assert keep.sum() == round((1 - sparsity) * x.size)


def test_each_matrix_of_a_batch_has_its_own_threshold():
    both = jnp.stack([X, X * 1000.0])
    keep = np.asarray(TopK(0.5).project(both, NO_CONTEXT).keep)
    np.testing.assert_array_equal(keep[0], keep[1])


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (4, 8), (1, 16)])
def test_n_of_every_m(n, m):
    kept = jax.jit(lambda x: NM(n, m).project(x, NO_CONTEXT).keep)
    for x in (X, jnp.round(X), jnp.ones_like(X)):
        keep = np.asarray(kept(x)).reshape(-1, m)
        assert (keep.sum(axis=1) == n).all()
        runs = np.abs(np.asarray(x)).reshape(-1, m)
        order = np.argsort(-runs, axis=1, kind="stable")[:, :n]
        expected = np.zeros_like(keep)
        np.put_along_axis(expected, order, True, axis=1)
        np.testing.assert_array_equal(keep, expected)


def test_pairs_stay_together_and_go_by_their_norm():
    keep = np.asarray(NM(4, 8, unit=2).project(X, NO_CONTEXT).keep).reshape(-1, 4, 2)
    assert (keep[..., 0] == keep[..., 1]).all()
    norms = np.linalg.norm(X64.reshape(-1, 4, 2), axis=-1)
    expected = np.argsort(np.argsort(-norms, axis=1), axis=1) < 2
    np.testing.assert_array_equal(keep[..., 0], expected)


def test_scale_rules_by_hand():
    x = jnp.asarray([[0.0, 1.0, -7.0, 3.0]])
    assert float(Scalar(E2M1, Absmax()).measure(x, NO_CONTEXT)[0][0, 0]) == np.float32(7) * (
        np.float32(1) / np.float32(6)
    )
    assert float(Scalar(E2M1, PowerOfTwo()).measure(x, NO_CONTEXT)[0][0, 0]) == 1.0  # 2^(2 - 2): 7 saturates at 6
    assert float(Scalar(E2M1, PowerOfTwo("ceil")).measure(x, NO_CONTEXT)[0][0, 0]) == 2.0
    np.testing.assert_array_equal(Scalar(E2M1, PowerOfTwo()).project(x, NO_CONTEXT).value, [[0.0, 1.0, -6.0, 3.0]])


def test_exact_powers_of_two_do_not_saturate_ceil_scales():
    x = jnp.asarray([[6.0, 1.0]])
    assert float(Scalar(E2M1, PowerOfTwo("ceil")).measure(x, NO_CONTEXT)[0][0, 0]) == 1.0
    above = jnp.nextafter(x, jnp.inf)
    assert float(Scalar(E2M1, PowerOfTwo("ceil")).measure(above, NO_CONTEXT)[0][0, 0]) == 2.0


def test_two_level_scales_by_the_equation():
    format = Scalar(E2M1, TwoLevel(), 16)
    value = np.asarray(format.project(X, NO_CONTEXT).value, np.float64)
    groups = X64.reshape(-1, 16)
    outer = np.abs(X64).max() / (6 * 448)
    levels = E4M3.levels[E4M3.levels >= 0]
    wanted = np.abs(groups).max(axis=1) / 6 / outer
    scale = levels[np.abs(wanted[:, None] - levels).argmin(axis=1)] * outer
    grid = E2M1.levels[:, None, None]
    expected = E2M1.levels[np.abs(groups / scale[:, None] - grid).argmin(axis=0)] * scale[:, None]
    np.testing.assert_allclose(value.reshape(-1, 16), expected, rtol=1e-6)


def test_the_last_group_may_be_ragged():
    with pytest.raises(UserError, match="group=96 does not divide 256; use 32 or 64 or 128, or ragged"):
        Scalar(Int(4), group=96).project(X, NO_CONTEXT)
    ragged = Scalar(Int(4), group=96, ragged=True).project(X, NO_CONTEXT).value
    whole = Scalar(Int(4)).project(X[:, 192:], NO_CONTEXT).value
    np.testing.assert_allclose(ragged[:, 192:], whole, rtol=1e-6)


def test_scales_come_from_the_survivors_or_the_dense_row():
    survivors = SparseQuantized(NM(2, 4), Scalar(Int(4), Absmax()))
    dense = SparseQuantized(NM(2, 4), Scalar(Int(4), Absmax()), scales_from="dense")
    np.testing.assert_array_equal(survivors.project(X, NO_CONTEXT).value, dense.project(X, NO_CONTEXT).value)
    a = SparseQuantized(NM(2, 4), Scalar(Int(4))).project(X, NO_CONTEXT)
    b = SparseQuantized(NM(2, 4), Scalar(Int(4)), scales_from="dense").project(X, NO_CONTEXT)
    assert (np.asarray(a.step) != np.asarray(b.step)).all()
    assert (np.asarray(a.value)[~np.asarray(a.keep)] == 0).all()
    kept = np.where(np.asarray(a.keep), X64, 0.0)
    rms = np.sqrt((kept**2).sum(axis=1) / np.asarray(a.keep).sum(axis=1))
    ratio = np.asarray(a.step)[:, 0] / rms
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_gradual_pruning_is_cubic_and_ends_exactly():
    format = TopK(0.75, schedule=Cubic(0.1, 0.6))
    kept = {p: int(format.project(X, Context(progress=p)).keep.sum()) for p in (0.0, 0.1, 0.35, 0.6, 1.0)}
    assert kept[0.0] == kept[0.1] == X.size
    assert kept[0.35] == X.size - round(0.75 * X.size * (1 - 0.5**3))
    assert kept[0.6] == kept[1.0] == X.size // 4
    traced = jax.jit(lambda p: format.project(X, Context(progress=p)).keep.sum())
    assert int(traced(jnp.float32(0.35))) == kept[0.35]


def test_gradual_pruning_goes_to_the_nearest_count():
    """10 values of which 5 are pruned at the end: 0.72 of them are 3.6, and 0.68 are 3.4."""
    format, x = TopK(0.5, schedule=Cubic(0.0, 1.0)), jnp.arange(1.0, 11.0)[None]
    for share, pruned in ((0.72, 4), (0.68, 3)):
        progress = 1 - (1 - share) ** (1 / 3)
        assert int((format.project(x, Context(progress=progress)).value == 0).sum()) == pruned


def test_rigl_moves_its_mask_as_the_algorithm_says():
    format = RigL(0.5, period=10, stop=0.8, drop=0.4)
    rng = np.random.default_rng(4)
    state = jnp.asarray(rng.permutation(np.arange(X.size) < X.size // 2).reshape(X.shape))
    gradient = jnp.asarray(rng.standard_normal(X.shape), jnp.float32)
    progress = 0.2
    moved = int(0.2 * (1 + np.cos(np.pi * progress / 0.8)) * (X.size // 2))
    step = jax.jit(format.next_state)
    found = np.asarray(step(state, X, gradient, jnp.int32(20), jnp.float32(progress)))
    kept = np.flatnonzero(np.asarray(state).ravel())
    stay = kept[np.argsort(-np.abs(X64).ravel()[kept], kind="stable")[: kept.size - moved]]
    others = np.setdiff1d(np.arange(X.size), stay)
    grow = others[np.argsort(-np.abs(np.asarray(gradient)).ravel()[others], kind="stable")[:moved]]
    expected = np.zeros(X.size, bool)
    expected[np.concatenate([stay, grow])] = True
    np.testing.assert_array_equal(found.ravel(), expected)
    assert found.sum() == X.size // 2
    for unmoved_step, unmoved_progress in ((21, 0.2), (20, 0.8), (20, 0.9)):
        same = step(state, X, gradient, jnp.int32(unmoved_step), jnp.float32(unmoved_progress))
        np.testing.assert_array_equal(same, state)


def test_rigl_keeps_its_count_when_survivors_are_zero():
    format = RigL(0.5, period=1)
    state = format.initial_state(X)
    step = jax.jit(format.next_state)
    for x, gradient in ((jnp.zeros_like(X), X), (X, jnp.zeros_like(X)), (jnp.zeros_like(X), jnp.zeros_like(X))):
        assert int(step(state, x, gradient, jnp.int32(1), jnp.float32(0.0)).sum()) == X.size // 2


def test_noise_has_the_stated_variance_and_is_fresh():
    format = Noise(0.04)
    large = jnp.asarray(np.random.default_rng(0).standard_normal((512, 512)) * 3, jnp.float32)
    one = np.asarray(format.project(large, Context(key=jax.random.key(0))).value - large, np.float64)
    two = np.asarray(format.project(large, Context(key=jax.random.key(1))).value - large, np.float64)
    expected = 0.04 * np.mean(np.asarray(large, np.float64) ** 2)
    assert abs(one.var() / expected - 1) < 6 * (2 / large.size) ** 0.5
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.01


def test_outliers_are_kept_and_do_not_set_the_scale():
    x = X.at[:, 7].set(500.0)
    value = Outliers(Scalar(Int(4), Absmax()), 0.01).project(x, NO_CONTEXT).value
    assert (np.asarray(value)[:, 7] == 500.0).all()
    rest = np.delete(np.asarray(value - x), 7, axis=1)
    assert np.abs(rest).max() < 4.0
    assert np.abs(np.asarray(Scalar(Int(4), Absmax()).project(x, NO_CONTEXT).value - x)).max() > 30


def test_the_scale_beside_outliers_is_that_of_the_others():
    """Of 100 values one is apart: the RMS is over 99, and so is the storage of their codes."""
    x, inner = X[:, :100].at[:, 7].set(500.0), Scalar(Int(4))
    found, alone = Outliers(inner, 0.01).project(x, NO_CONTEXT), inner.project(jnp.delete(x, 7, axis=1), NO_CONTEXT)
    np.testing.assert_allclose(found.step[:, :1], alone.step[:, :1], rtol=1e-6)
    assert Outliers(inner, 0.01).bits == pytest.approx(0.99 * 4 + 0.01 * (16 + 16))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_the_threshold_of_a_run_is_its_smallest_survivor(n, m):
    x = X[:, : 8 * (X.shape[1] // 8)]
    magnitude = np.sort(np.abs(np.asarray(x)).reshape(len(x), -1, m), axis=-1)[..., -n]
    threshold = NM(n, m).project(x, NO_CONTEXT).threshold
    np.testing.assert_array_equal(threshold, np.repeat(magnitude, m, axis=1))


def test_row_variants():
    assert per_row(catalog.find("top50")) == TopK(0.5, "row")
    assert catalog.find("nvfp4-row").granularity == "row"
    assert catalog.label(catalog.find("nvfp4-row")) == "nvfp4-row"  # not by its other blocks, nvfp4-g16x16-row
    assert catalog.find("top50+nvfp4-row").granularity == "row"
    assert per_row(catalog.find("int4")) is catalog.find("int4")
    with pytest.raises(UserError, match="no row-by-row variant"):
        per_row(RigL(0.5))


def test_names_and_labels_agree():
    for format in catalog.FORMATS.values():
        assert catalog.find(catalog.label(format)) == format
    assert catalog.label(catalog.find("top50-row")) == "top50-row"
    assert catalog.find("4:8+lloyd3") == SparseQuantized(catalog.find("4:8"), catalog.find("lloyd3"))
    assert catalog.label(catalog.find("4:8+lloyd3")) == "4:8+lloyd3"
    for sparsity in (f"top{percent}" for percent in range(10, 100, 10)):
        for name in (f"{sparsity}+absmax-int3", f"{sparsity}+int1-dense-scales"):
            assert catalog.label(catalog.find(name)) == name
            activations = per_row(catalog.find(name))
            assert catalog.find(catalog.label(activations)) == activations
    assert catalog.find("top30-row+int4") == catalog.find("top30+int4-row") == per_row(catalog.find("top30+int4"))
    assert catalog.find("int2-g128-ragged") == Scalar(Int(2), group=128, ragged=True)
    assert catalog.label(catalog.find("top50+int3-g32-ragged")) == "top50+int3-g32-ragged"
    assert catalog.label(TopK(0.123)) == "TopK(sparsity=0.123, granularity='matrix', schedule=Constant(), unit=1)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: catalog.find("imt4"), "unknown format 'imt4'; closest: int4"),
        (lambda: catalog.find("int44"), "format 'int44': .*bits must be 1 to 8"),
        (lambda: catalog.find(""), "unknown format"),
        (lambda: catalog.find("int4-ragged"), "'int4-ragged': only a scalar format with numbered groups"),
        (lambda: catalog.find("top50-ragged"), "'top50-ragged': only a scalar format with numbered groups"),
        (lambda: catalog.find("int44+int4"), "format 'int44': .*bits must be 1 to 8"),
        (lambda: catalog.find("int4+2:4"), "a sparsity A, then a scalar format or a codebook B"),
        (lambda: TopK(1.0), "at least 0 and below 1"),
        (lambda: TopK(-0.1), "at least 0 and below 1"),
        (lambda: TopK(0.999, "row").project(X, NO_CONTEXT), "would prune all 256 values"),
        (lambda: NM(0, 4), "0 < n < m"),
        (lambda: NM(4, 4), "0 < n < m"),
        (lambda: NM(3, 8, unit=2), "the unit must divide"),
        (lambda: NM(2, 4).project(X[:, :30], NO_CONTEXT), "a width that 4 divides, not 30"),
        (lambda: Vector(2, 17), "no codebook of 17 codewords"),
        (lambda: Vector(4, 256).project(X[:, :30], NO_CONTEXT), "a width that it divides, not 30"),
        (lambda: Scalar(Int(4), group=1), "at least 2 values"),
        (lambda: Scalar(Int(4), group="column"), "use 'row', 'matrix'"),
        (lambda: Scalar(E2M1, TwoLevel()), "numbered group"),
        (lambda: Noise(0.0), "above 0"),
        (lambda: Noise(0.1).project(X, NO_CONTEXT), "needs a PRNG key"),
        (lambda: Scalar(Int(4), Learned()).project(X, NO_CONTEXT), "needs its step"),
        (lambda: RigL(0.5).project(X, NO_CONTEXT), "needs its mask"),
        (lambda: RigL(0.5, period=0), "period=0 must be at least 1"),
        (lambda: Cubic(0.5, 0.5), "start < end"),
        (lambda: Outliers(Scalar(Int(4)), 1.0), "below 1"),
        (lambda: Outliers(Scalar(Int(4), Learned()), 0.1), "with measured scales"),
        (lambda: SparseQuantized(Scalar(Int(4)), Scalar(Int(4))), "must be a sparsity"),
        (lambda: SparseQuantized(TopK(0.5), TopK(0.5)), "must be a Scalar"),
        (lambda: SparseQuantized(TopK(0.5), Scalar(Int(4)), "neither"), "use 'survivors' or 'dense'"),
        (lambda: Scalar(Int(4)).project(X.astype(jnp.int32), NO_CONTEXT), "not int32"),
        (lambda: TopK(0.5).project(X.astype(jnp.int8), NO_CONTEXT), "not int8"),
        (lambda: Scalar(Int(4)).project(jnp.float32(1.0), NO_CONTEXT), "a scalar has none"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("name", ["int4", "mxfp4", "top50", "2:4", "top50+int4", "higgs-d2-n16", "int4-outliers1"])
def test_empty_tensors_project_to_themselves(name):
    assert catalog.find(name).project(jnp.zeros((0, 64)), NO_CONTEXT).value.shape == (0, 64)
