"""Scales with an offset or a sign: against the equations of GPTQ and of GGML, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.project.affine import extremes
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.affine import Range, SignedMax
from capscale.formats.base import NO_CONTEXT
from capscale.formats.families import Laplace, StudentT
from capscale.formats.floats import E2M1
from capscale.formats.grids import Int
from capscale.formats.levels import NF4
from capscale.formats.packing import pack
from capscale.formats.scalar import Scalar
from capscale.gaussian_mse import gmse
from capscale.packed import load_weights

GROUP = 32


def halves(seed: int = 0) -> np.ndarray:
    """float16 rows, as float32: the scale of a signed maximum is then exact in float16."""
    return np.random.default_rng(seed).standard_normal((64, 256)).astype(np.float16).astype(np.float32)


def value(format: Scalar, x: np.ndarray) -> np.ndarray:
    return np.asarray(format.project(jnp.asarray(x), NO_CONTEXT).value)


def gptq(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """`scale (clip(round(x / scale) + zero) - zero)` of groups, and how far from a tie every value is, in steps."""
    top = 2**bits - 1
    low, high = np.minimum(x.min(axis=-1, keepdims=True), 0), np.maximum(x.max(axis=-1, keepdims=True), 0)
    scale = ((high - low) / np.float32(top)).astype(np.float16).astype(np.float32)
    zero = np.round(-low / scale)
    steps = x / scale
    return scale * (np.clip(np.round(steps) + zero, 0, top) - zero), np.abs(steps % 1 - 0.5)


def q_0(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """GGML's `d (trunc(x / d + half + 1/2) - half)`, d the signed largest over -half; and as above."""
    half = 2 ** (bits - 1)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)
    d = (largest / -half).astype(np.float16).astype(np.float32)
    code = np.clip(np.trunc(x / d + half + 0.5), 0, 2 * half - 1)
    return d * (code - half), np.abs((x / d) % 1 - 0.5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_zero_point_is_that_of_gptq(bits):
    x = halves().reshape(-1, GROUP)
    expected, tie = gptq(x, bits)
    found = value(Scalar(Int(bits, "unsigned"), Range(), GROUP), x.reshape(64, 256)).reshape(x.shape)
    clear = tie > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], expected[clear])
    np.testing.assert_allclose(found, expected, atol=1.01 * float(np.ptp(x)) / (2**bits - 1))


@pytest.mark.parametrize("bits", [4, 5])
def test_a_signed_maximum_is_that_of_ggml(bits):
    x = halves(1).reshape(-1, GROUP)
    one_sign = x.max(axis=-1) != -x.min(axis=-1)
    expected, tie = q_0(x, bits)
    found = value(catalog.find(f"q{bits}_0"), x.reshape(64, 256)).reshape(x.shape)
    clear = (tie > 0) & one_sign[:, None]
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(found[clear], expected[clear])
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    np.testing.assert_array_equal(np.take_along_axis(found, at, -1), np.take_along_axis(x, at, -1))  # it is a level


def test_a_minimum_is_a_level_and_zero_is_one_of_a_zero_point():
    x = halves(2) + np.float32(0.01)
    x[:, ::GROUP] = 0.0
    affine, minimum = value(catalog.find("affine-int4-g32"), x), value(catalog.find("q4_1"), x)
    np.testing.assert_array_equal(affine[:, ::GROUP], 0.0)
    assert np.all(minimum[:, ::GROUP] != 0.0)
    low = x.reshape(-1, GROUP).min(axis=-1)
    np.testing.assert_array_equal(minimum.reshape(-1, GROUP).min(axis=-1), low.astype(np.float16))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_range_of_values_of_one_sign_reaches_to_zero(sign):
    x = np.float32(sign) * np.linspace(3.0, 4.0, GROUP, dtype=np.float32)[None]
    (scale, zero) = Scalar(Int(4, "unsigned"), Range(), GROUP).measure(jnp.asarray(x), NO_CONTEXT)
    assert float(scale.reshape(())) == np.float16(4 / 15)
    assert float(zero.reshape(())) == (0.0 if sign > 0 else 15.0)


@pytest.mark.parametrize(
    ("name", "error"),
    [("q4_1", 0.00611), ("q4_0", 0.00738), ("affine-int4-g32", 0.00652)],
)
def test_known_errors(name, error):
    """Groups of 32 Gaussian values: a sample of 3 10^6, by the equations above in float64."""
    assert abs(gmse(catalog.find(name)).value / error - 1) < 2e-3


@pytest.mark.parametrize("law", [Laplace(), StudentT(5.0)], ids=lambda law: law.name)
@parametrize("name", ["q4_0", "affine-int4-g64", "q4_1"], default=1)
def test_errors_of_other_laws_are_those_measured(name, law):
    format = catalog.find(name)
    x = law.sample(np.random.default_rng(3), (8192, 64)).astype(np.float32)
    run = jax.jit(lambda x: jnp.mean(jnp.square(format.project(x, NO_CONTEXT).value - x), axis=-1))
    each = np.asarray(run(jnp.asarray(x)), np.float64)
    stated = gmse(format, law)
    assert stated.standard_error == 0
    assert abs(each.mean() - stated.value) < 4 * each.std() / len(each) ** 0.5


def test_errors_that_have_no_form_are_measured():
    assert gmse(Scalar(Int(4, "unsigned"), Range(), 16)).standard_error > 0


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["affine-int4-g32", "q4_0", "q4_1"])
def test_what_is_not_finite_spoils_its_group_alone(name, bad):
    x = halves()
    x[0, 3] = bad
    found = value(catalog.find(name), x)
    assert not np.isfinite(found[0, 3])
    assert np.isfinite(found[0, GROUP:]).all()
    assert np.isfinite(found[1:]).all()


def test_extremes_order_as_numbers_do():
    x = np.array([[-3.0, 2.0, -0.0, 1e-30], [5.0, 7.0, 6.0, 5.5], [-1e-40, -1.0, -2.0, -3e38]], np.float32)
    low, high = jax.jit(extremes)(jnp.asarray(x))
    np.testing.assert_array_equal(low[:2, 0], x[:2].min(axis=1))
    np.testing.assert_array_equal(high[:2, 0], x[:2].max(axis=1))
    assert float(low[2, 0]) == x[2].min()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar(E2M1, Range(), 32), "a zero point counts levels of step 1"),
        (lambda: Scalar(Int(4, "unsigned"), SignedMax(), 32), "it mirrors the grid"),
        (lambda: Scalar(NF4, SignedMax(), 32), "it mirrors the grid"),
        (lambda: Range("zero"), "offset"),  # pyright: ignore[reportArgumentType]
        (lambda: SignedMax("float8"), "number"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_bad_rules_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_products_from_packed_bytes_say_that_they_apply_no_offset():
    packed = pack(catalog.find("affine-int4-g32"), jnp.asarray(halves()))
    with pytest.raises(UserError, match="scales with an offset"):
        load_weights(packed)
