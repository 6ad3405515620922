"""Every backward mask against a float64 numpy oracle written from its equation, edges included."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from capscale.errors import UserError
from capscale.estimators import (
    FP4_RADIUS,
    ABRms,
    Both,
    BRms,
    Clip,
    ForwardMask,
    Hypersphere,
    Lsq,
    RmsThreshold,
    StraightThrough,
    ThroughScale,
    Trust,
    TrustRadius,
)
from capscale.formats.base import Context
from capscale.formats.catalog import find
from capscale.formats.grids import Int
from capscale.formats.noise import Noise
from capscale.formats.optimum import optimal_clip
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Learned
from capscale.formats.serialize import from_json, to_json
from capscale.formats.sparse import TopK
from capscale.formats.vector import codebook

X = jnp.asarray(np.random.default_rng(0).standard_normal((12, 64)) * 1.7, jnp.float32)
X64 = np.asarray(X, np.float64)
ROW_RMS = np.sqrt(np.mean(X64**2, axis=-1, keepdims=True))
ALL_RMS = np.sqrt(np.mean(X64**2))


@cache
def compiled(name):
    format = find(name) if isinstance(name, str) else name
    return jax.jit(lambda x: format.project(x, Context()))


def mask(estimator, name, x=X):
    found = estimator(x, compiled(name)(x))
    return None if found is None else np.broadcast_to(np.asarray(found), x.shape)


def threshold(k: int) -> float:
    return float(np.sort(np.abs(X64).ravel())[X64.size - k])


def test_straight_through_masks_nothing():
    assert mask(StraightThrough(), "int2") is None


@pytest.mark.parametrize("bits", range(1, 9))
def test_clip(bits):
    expected = np.abs(X64) <= optimal_clip(Int(bits)) * ROW_RMS
    np.testing.assert_array_equal(mask(Clip(), f"int{bits}"), expected)
    assert not expected.all() or bits > 4


@pytest.mark.parametrize("scale", [1.25, 1.3, 2.0])
@pytest.mark.parametrize("bits", [1, 2])
def test_clip_with_a_scale(scale, bits):
    expected = np.abs(X64) <= scale * optimal_clip(Int(bits)) * ROW_RMS
    np.testing.assert_array_equal(mask(Clip(scale), f"int{bits}"), expected)
    assert (expected != mask(Clip(), f"int{bits}")).any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_radius_of_half_a_step_is_trust_on_an_even_grid(bits):
    half = optimal_clip(Int(bits)) / (2**bits - 1)
    same = mask(TrustRadius(half), f"int{bits}") == mask(Trust(), f"int{bits}")
    assert same.mean() > 0.99  # but for errors of half a step exactly, up to rounding
    assert (mask(TrustRadius(half / 2), f"int{bits}") != mask(Trust(), f"int{bits}")).any()


@pytest.mark.parametrize("name", ["e2m1", "int4-g16"])
def test_radius_is_of_the_rms_of_what_shares_a_scale(name):
    error = np.abs(np.asarray(compiled(name)(X).value, np.float64) - X64)
    groups = X64.reshape(12, -1, 64 if name == "e2m1" else 16)
    rms = np.broadcast_to(np.sqrt(np.mean(groups**2, -1, keepdims=True)), groups.shape).reshape(X.shape)
    np.testing.assert_array_equal(mask(TrustRadius(FP4_RADIUS), name), error <= FP4_RADIUS * rms)


def test_fp4_radius_is_half_the_outermost_gap_of_quests_lloyd_grid():
    """Twenty iterations from even levels: `GaussianTrustQuantizer` computes it ahead of the levels of FP4."""
    levels = np.linspace(-3, 3, 16)
    for _ in range(20):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        levels = (norm.pdf(edges[:-1]) - norm.pdf(edges[1:])) / (norm.cdf(edges[1:]) - norm.cdf(edges[:-1]))
    assert (levels[-1] - levels[-2]) / 2 == pytest.approx(FP4_RADIUS, abs=5e-5)


@pytest.mark.parametrize("granularity", ["row", "matrix"])
def test_through_scale_is_the_derivative_of_noise_by_its_deviation(granularity):
    """Against automatic differentiation of `x + sqrt(gmse mean(x^2)) z` in float64-like plain jnp, z fixed."""
    noise, estimator, key = Noise(0.1, granularity), ThroughScale(granularity), jax.random.key(3)
    axes = (-1,) if granularity == "row" else (-2, -1)
    projection = noise.project(X, Context(key=key))
    deviation = np.sqrt(0.1 * np.mean(X64**2, axis=axes, keepdims=True))
    z = jnp.asarray((np.asarray(projection.value, np.float64) - X64) / deviation, jnp.float32)

    def plain(x):
        return x + jnp.sqrt(0.1 * jnp.mean(jnp.square(x), axis=axes, keepdims=True)) * z

    g = jnp.asarray(np.random.default_rng(5).standard_normal(X.shape), jnp.float32)
    (expected,) = jax.vjp(plain, X)[1](g)
    pulled = estimator.pull(estimator.residuals(X, projection), g)
    np.testing.assert_allclose(pulled, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected, g, rtol=1e-3)  # straight-through would be something else


@pytest.mark.parametrize("bits", range(1, 9))
def test_trust_is_the_papers_threshold(bits):
    clip = optimal_clip(Int(bits)) * ROW_RMS
    levels = np.linspace(-1, 1, 2**bits) * clip[..., None]
    nearest = np.take_along_axis(levels, np.abs(X64[..., None] - levels).argmin(-1)[..., None], -1)[..., 0]
    expected = np.abs(nearest - X64) <= clip / (2**bits - 1) * (1 + 1e-9)  # T = c_b s / (2^b - 1), ties inside pass
    np.testing.assert_array_equal(mask(Trust(), f"int{bits}"), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_everything_inside_the_grid_is_trusted(bits):
    format = Scalar(Int(bits))
    dense = jnp.concatenate([jnp.linspace(-3, 3, 30001), jnp.full(30, 40.0)])[None]  # on and next to boundaries
    projection = format.project(dense, Context())
    inside = np.asarray(projection.relative_magnitude) <= 1
    assert np.asarray(Trust()(dense, projection))[inside].all()
    assert not np.asarray(Trust()(dense, projection)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_trust_does_not_see_the_rounding_of_the_value(dtype):
    x = X.astype(dtype)
    projection = Scalar(Int(4)).project(x, Context())
    inside = np.asarray(projection.relative_magnitude) <= 1
    assert np.asarray(Trust()(x.astype(jnp.float32), projection))[inside].all()


@pytest.mark.parametrize("free", [0.1, 0.3, 1.0, 2.5])
def test_trust_with_a_free_threshold(free):
    step = 2 * optimal_clip(Int(3)) * ROW_RMS / 7
    clip = optimal_clip(Int(3)) * ROW_RMS
    levels = np.linspace(-1, 1, 8) * clip[..., None]
    nearest = np.take_along_axis(levels, np.abs(X64[..., None] - levels).argmin(-1)[..., None], -1)[..., 0]
    expected = np.abs(nearest - X64) <= free * step
    np.testing.assert_array_equal(mask(Trust(free), "int3"), expected)


@pytest.mark.parametrize("name", ["e2m1", "lloyd3", "mxfp4", "ternary"])
def test_trust_uses_the_local_step_of_uneven_grids(name):
    format = find(name)
    projection = format.project(X, Context())
    error = np.abs(np.asarray(projection.value, np.float64) - X64)
    expected = error <= np.asarray(projection.step) / 2 * (1 + 1e-5)
    np.testing.assert_array_equal(mask(Trust(), name), expected)


def test_forward_mask():
    expected = np.abs(X64) >= threshold(X64.size // 2)
    np.testing.assert_array_equal(mask(ForwardMask(), "top50"), expected)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.2, 0.4, 0.49])
def test_rms(p):
    np.testing.assert_array_equal(mask(RmsThreshold(p), "top50"), np.abs(X64) > ALL_RMS * norm.ppf(0.5 + p))


@pytest.mark.parametrize("p", [0.0, 0.05, 0.2, 0.3, 0.4, 0.49])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_b_rms(p, sparsity):
    kept = round((1 - sparsity) * X64.size)
    t_p, t_k = ALL_RMS * norm.ppf(0.5 + p), threshold(kept)
    expected = (np.abs(X64) < min(t_p, t_k)) | (np.abs(X64) > max(t_p, t_k))
    expected |= (np.abs(X64) == t_k) & (t_p < t_k)  # the k-th entry itself is kept by the forward pass
    np.testing.assert_array_equal(mask(BRms(p), TopK(sparsity)), expected)


@pytest.mark.parametrize("a", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_a_b_rms(a, sparsity):
    t_k = threshold(round((1 - sparsity) * X64.size))
    t_a = ALL_RMS * norm.ppf(0.5 + (1 - a) * (norm.cdf(t_k / ALL_RMS) - 0.5))
    expected = (np.abs(X64) < t_a) | (np.abs(X64) >= t_k)
    np.testing.assert_array_equal(mask(ABRms(a), TopK(sparsity)), expected)


def test_edges_meet_the_plain_masks():
    forward = mask(ForwardMask(), "top75")
    np.testing.assert_array_equal(mask(ABRms(1.0), "top75"), forward)
    assert mask(ABRms(0.0), "top75").all()
    np.testing.assert_array_equal(mask(BRms(0.0), "top75"), forward)
    np.testing.assert_array_equal(mask(BRms(1e-9), "top75"), forward)
    assert mask(RmsThreshold(0.0), "top75").all()
    assert not mask(RmsThreshold(0.499999), "top75").any()


def test_rows_have_their_own_thresholds():
    scaled = X * jnp.exp2(jnp.arange(12.0))[:, None]
    np.testing.assert_array_equal(mask(BRms(0.1), "top50-row", scaled), mask(BRms(0.1), "top50-row"))
    assert (mask(BRms(0.1), "top50", scaled) != mask(BRms(0.1), "top50")).any()


def test_masks_of_patterns_use_the_runs_own_threshold():
    runs = np.abs(X64).reshape(12, -1, 4)
    t_k = np.sort(runs, axis=-1)[..., 2:3]
    t_p = (ROW_RMS * norm.ppf(0.55))[..., None]
    expected = np.where(runs >= t_k, runs > t_p, runs < t_p).reshape(X.shape)
    np.testing.assert_array_equal(mask(BRms(0.05), "2:4"), expected)


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.4])
def test_hypersphere(radius):
    words = codebook(2, 16).astype(np.float64)
    normal = (X64 / ROW_RMS).reshape(12, 32, 2)
    inside = np.linalg.norm(normal, axis=-1) <= radius * np.linalg.norm(words, axis=1).max()
    np.testing.assert_array_equal(mask(Hypersphere(radius), "higgs-d2-n16"), np.repeat(inside, 2, axis=-1))


def test_both_lets_the_grid_speak_of_survivors_only():
    projection = compiled("top50+int4")(X)
    keep, trusted = np.asarray(projection.keep), np.asarray(projection.error_in_steps) <= 0.5
    np.testing.assert_array_equal(mask(Both(), "top50+int4"), ~keep | trusted)
    np.testing.assert_array_equal(mask(Both(sparse=ForwardMask()), "top50+int4"), keep & trusted)
    np.testing.assert_array_equal(mask(Both(ForwardMask(), StraightThrough()), "top50+int4"), keep)
    assert (mask(Trust(), "top50+int4") != mask(Both(), "top50+int4")).any()


def test_lsq_masks_outside_its_learned_grid():
    format = Scalar(Int(3), Learned())
    learned = jnp.full((12, 1), 0.4)
    projection = format.project(X, Context(learned=learned))
    np.testing.assert_array_equal(Lsq()(X, projection), np.abs(X64) <= np.float32(0.4) * 3.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trust(0.0), "must be above 0"),
        (lambda: Clip(float("inf")), "must be finite"),
        (lambda: TrustRadius(float("nan")), "must be finite"),
        (lambda: ThroughScale("all"), "use 'row' or 'matrix'"),
        (lambda: mask(RmsThreshold(0.1), "int4"), "needs a format with sparsity"),
        (lambda: mask(TrustRadius(0.3), "top50"), "needs a format with a grid"),
        (lambda: Hypersphere(-1.0), "must be above 0"),
        (lambda: RmsThreshold(0.5), r"\[0, 1/2\)"),
        (lambda: BRms(-0.1), r"\[0, 1/2\)"),
        (lambda: ABRms(1.1), r"\[0, 1\]"),
        (lambda: mask(ForwardMask(), "int4"), "needs a format with sparsity"),
        (lambda: mask(Trust(), "top50"), "needs a format with a grid"),
        (lambda: mask(Lsq(), "int4"), "needs a format with a learned step"),
    ],
)
def test_bad_estimators_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_masks_are_the_same_compiled():
    for estimator, name in ((Trust(), "int4"), (BRms(0.2), "top75"), (ABRms(0.5), "top75"), (Both(), "2:4+int4")):
        format = find(name)
        compiled = jax.jit(lambda x, e=estimator, f=format: e(x, f.project(x, Context())))
        np.testing.assert_array_equal(compiled(X), mask(estimator, name))


def test_the_name_that_two_classes_shared_still_finds_the_estimator():
    """Runs of before hold it in their ids, and JSON goes on to."""
    import capscale.estimators as module

    with pytest.warns(DeprecationWarning, match="is called RmsThreshold"):
        assert module.Rms is RmsThreshold
    assert to_json(RmsThreshold(0.1)) == {"type": "Rms", "p": 0.1}
    assert from_json({"type": "Rms", "p": 0.1}, (RmsThreshold,)) == RmsThreshold(0.1)
