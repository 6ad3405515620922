"""The order-free RMS against float64, and against the property it exists for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.rms import largest_magnitude, root_mean_square

AXES = ((-1,), (-2, -1))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("width", [1, 8, 48, 640, 4096])
def test_agrees_with_float64(width, axes):
    x = np.random.default_rng(0).standard_normal((16, width)).astype(np.float32) * np.float32(3.7)
    expected = np.sqrt(np.mean(np.square(x.astype(np.float64)), axis=axes, keepdims=True))
    np.testing.assert_allclose(root_mean_square(jnp.asarray(x), axes), expected, rtol=3e-7)


@pytest.mark.parametrize("axes", AXES)
def test_an_outlier_costs_no_accuracy(axes):
    x = np.random.default_rng(1).standard_normal((16, 1024)).astype(np.float32)
    x[:, 3] = 3000.0
    expected = np.sqrt(np.mean(np.square(x.astype(np.float64)), axis=axes, keepdims=True))
    np.testing.assert_allclose(root_mean_square(jnp.asarray(x), axes), expected, rtol=3e-7)


def test_blocks_have_their_own():
    """Over rows and columns that are no neighbours among the axes, as blocks of a matrix are split."""
    x = np.random.default_rng(3).standard_normal((2, 3, 16, 5, 8)).astype(np.float32)
    expected = np.sqrt(np.mean(np.square(x.astype(np.float64)), axis=(-3, -1), keepdims=True))
    np.testing.assert_allclose(root_mean_square(jnp.asarray(x), (-3, -1)), expected, rtol=3e-7)


@pytest.mark.parametrize("axes", AXES)
def test_any_order_gives_the_same_bits(axes):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((16, 640)).astype(np.float32)
    shuffled = x[:, rng.permutation(640)]
    np.testing.assert_array_equal(root_mean_square(jnp.asarray(shuffled), axes), root_mean_square(jnp.asarray(x), axes))


def test_a_float_sum_depends_on_the_order():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, 640)).astype(np.float32)
    mean = jax.jit(lambda x: jnp.mean(jnp.square(x), axis=-1))
    assert (mean(x[:, rng.permutation(640)]) != mean(x)).any()


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-30, 1.0, 1e30, 3.4e38])
def test_the_whole_range(value):
    found = root_mean_square(jnp.full((1, 32), value, jnp.float32))
    np.testing.assert_allclose(found, 0.0 if value < 2.0**-126 else value, rtol=1e-6)


@pytest.mark.parametrize("value", [jnp.nan, -jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("width", [32, 640])
@pytest.mark.parametrize("compiled", [True, False])
def test_not_finite_in_not_finite_out(value, width, compiled):
    """Wide rows too: there a CPU's float maximum may pass over NaN."""
    x = jnp.ones((8, width)).at[1, 3].set(value)
    for function in (root_mean_square, largest_magnitude):
        finite = jnp.isfinite((jax.jit(function) if compiled else function)(x))[:, 0]
        np.testing.assert_array_equal(finite, np.arange(8) != 1)


def test_the_largest_magnitude_of_nothing_is_zero():
    np.testing.assert_array_equal(largest_magnitude(jnp.zeros((2, 0))), np.zeros((2, 1)))
    np.testing.assert_array_equal(largest_magnitude(jnp.asarray([[-3.0, 2.0]])), [[3.0]])


def test_a_share_counts_what_is_filled():
    x = jnp.asarray([[3.0, 4.0, 0.0, 0.0]])
    np.testing.assert_allclose(root_mean_square(x, share=jnp.asarray([[0.5]])), [[12.5**0.5]], rtol=1e-6)
