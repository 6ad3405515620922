"""Scales of quantized training, against their published definitions written anew in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.hadamard import rotate

from capscale.errors import UserError
from capscale.formats import MsEden, PowerOfTwoOfRms, PowerOfTwoTimes, Scalar, StochasticRounding
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.catalog import find, label
from capscale.formats.floats import E2M1, E4M3
from capscale.formats.packing import pack, unpack
from capscale.formats.serialize import from_json, to_json

LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
X = np.random.default_rng(0).standard_normal((24, 128)) * np.exp(np.random.default_rng(1).standard_normal((24, 128)))
X = X.astype(np.float32)


def nearest(u):
    """Levels of E2M1, in float64."""
    return np.sign(u) * LEVELS[np.abs(np.abs(u)[..., None] - LEVELS).argmin(axis=-1)]


def projected(name, x=X, key=None):
    return np.asarray(find(name).project(jnp.asarray(x), Context(key=key) if key is not None else NO_CONTEXT).value)


def test_three_quarters_of_the_range():
    """arXiv 2502.20586, Algorithm 2, to the nearest: X = 2^(floor(log2 max) - 2), then 3/4 V / X, and 4/3 behind."""
    groups = np.float64(X).reshape(24, 4, 32)
    shared = 2.0 ** (np.floor(np.log2(np.abs(groups).max(axis=-1, keepdims=True))) - 2)
    scaled = 0.75 * groups / shared
    assert (np.abs(scaled).max(axis=-1) >= 3).all()
    assert np.abs(scaled).max() < 6, "nothing saturates"
    expected = nearest(scaled) * shared / 0.75
    np.testing.assert_allclose(projected("e2m1-g32@e8m0-three-quarters"), expected.reshape(X.shape), rtol=1e-6)


def test_power_of_two_of_the_rms():
    """Quartet's kernel: the exponent of 2.92247856 / 6 times the deviation, rounded down."""
    groups = np.float64(X).reshape(24, 4, 32)
    scale = 2.0 ** np.floor(np.log2(2.92247856 / 6 * np.sqrt(np.square(groups).mean(axis=-1, keepdims=True))))
    expected = nearest(groups / scale) * scale
    np.testing.assert_allclose(projected("e2m1-g32@e8m0-rms"), expected.reshape(X.shape), rtol=1e-6)


@pytest.mark.ci
def test_ms_eden_by_its_algorithm():
    """Levels to the nearest, under scales of E4M3 that are S times as large in the mean and neighbours of that."""
    groups = np.float64(X).reshape(24, 8, 16)
    at = 6 / (17 / 16 * 0.93)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    outer = largest.max() / (at * 256)
    level = np.float64(np.asarray(largest / at / outer, np.float32).astype(jnp.float8_e4m3fn))
    codes = nearest(groups / (level * outer))
    factor = np.square(groups).sum(-1) / (groups * codes * level * outer).sum(-1)
    wanted = np.asarray(level)[..., 0] * factor
    draws = 4000
    keys = jax.random.split(jax.random.key(0), draws)
    format = find("e2m1-g16@e4m3-ms-eden")
    values = jax.jit(jax.vmap(lambda key: format.project(jnp.asarray(X), Context(key=key)).value))(keys)
    drawn = np.float64(values).reshape(draws, 24, 8, 16)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.nanmax(np.where(codes != 0, drawn / codes, np.nan), axis=-1) / outer
    finite = np.asarray(E4M3.levels)
    below = finite[np.searchsorted(finite, wanted * (1 - 1e-6), side="right") - 1]
    above = finite[np.searchsorted(finite, wanted * (1 + 1e-6), side="right")]
    assert np.isclose(scales, below, rtol=1e-4).sum() + np.isclose(scales, above, rtol=1e-4).sum() >= scales.size
    error = scales.std(axis=0) / np.sqrt(draws)
    assert np.abs((scales.mean(axis=0) - wanted) / np.maximum(error, 1e-5 * wanted)).max() < 4.5
    inner = (drawn * groups).sum(axis=-1).mean(axis=0) / np.square(groups).sum(axis=-1)
    np.testing.assert_allclose(inner, 1, atol=5e-3)


def test_ms_eden_has_half_the_error_of_chance():
    """The paper's abstract: "more than 2x lower quantization error than SR"."""
    x = np.random.default_rng(3).standard_normal((256, 1024)).astype(np.float32)
    key = jax.random.key(0)
    chance, eden = (np.square(projected(n, x, key) - x).mean() for n in ("nvfp4-stochastic", "e2m1-g16@e4m3-ms-eden"))
    assert chance > 2 * eden


@pytest.mark.ci
def test_ms_eden_is_nearly_unbiased_under_signs_and_a_rotation():
    """One Hadamard block of 128 with random signs leaves less than 1 % of the values as bias."""
    format, x = find("e2m1-g16@e4m3-ms-eden"), jnp.asarray(X[:4])

    def once(key):
        signs = jnp.broadcast_to(jax.random.rademacher(key, (128,), jnp.float32), x.shape)
        value = format.project(rotate(signs * x, 128, -1), Context(key=jax.random.fold_in(key, 1))).value
        return rotate(value, 128, -1) * signs

    drawn = np.float64(jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(5), 10_000)))
    bias = drawn.mean(axis=0) - x
    noise = drawn.std(axis=0) / 100
    assert np.sqrt(max(np.mean(np.square(bias) - np.square(noise)), 0) / np.mean(np.square(x))) < 0.01


@pytest.mark.parametrize(
    "name", ["e2m1-g32@e8m0-three-quarters-stochastic", "e2m1-g32@e8m0-rms", "e2m1-g16@e4m3-ms-eden-ragged"]
)
def test_names_json_and_packing(name):
    format = find(name)
    assert label(format) == name
    assert from_json(to_json(format)) == format
    ctx = Context(key=jax.random.key(1))
    value = format.project(jnp.asarray(X), ctx).value
    np.testing.assert_array_equal(unpack(pack(format, jnp.asarray(X), ctx)), value)


def test_refusals():
    with pytest.raises(UserError, match="levels are not"):
        Scalar(StochasticRounding(E2M1), MsEden(), 16)
    with pytest.raises(UserError, match="needs a PRNG key"):
        projected("e2m1-g16@e4m3-ms-eden")
    with pytest.raises(UserError, match="multiple"):
        PowerOfTwoTimes(2.0)
    with pytest.raises(UserError, match="use @e8m0"):
        find("e2m1-g16@e4m3-rms")
    assert PowerOfTwoOfRms() != PowerOfTwoOfRms(2.0)
