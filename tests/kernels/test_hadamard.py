"""The block rotation against the matrix it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.hadamard import BASES, base_of, rotate, signs
from capscale.kernels.hadamard.orders import hadamard_matrix
from capscale.kernels.hadamard.reference import by_products, by_sums
from scipy.linalg import block_diag, hadamard


@pytest.mark.parametrize(("width", "block"), [(2, 2), (48, 16), (640, 128)])
def test_is_the_matrix_product(width, block):
    x = np.random.default_rng(0).standard_normal((3, 5, width)).astype(np.float32)
    matrix = hadamard(block) / np.sqrt(block)
    expected = (x.astype(np.float64).reshape(3, 5, -1, block) @ matrix).reshape(x.shape)
    np.testing.assert_allclose(rotate(jnp.asarray(x), block), expected, atol=3e-6)


def butterflies(x, block):
    """By pairs of neighbours, then of pairs, on the last axis; float32 throughout."""
    y, half = x.copy(), 1
    while half < block:
        pairs = y.reshape(*x.shape[:-1], -1, 2, half)
        even, odd = pairs[..., 0, :], pairs[..., 1, :]
        y, half = np.stack([even + odd, even - odd], axis=-2).reshape(x.shape), 2 * half
    return y * np.float32(block**-0.5)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("block", [2, 8, 16, 32, 128, 256, 512])
def test_adds_in_the_order_of_butterflies(block, axis):
    """Whatever the passes over memory: kernels that add in this order agree bit for bit."""
    x = np.random.default_rng(block).standard_normal((2, 3, 1024)).astype(np.float32)
    expected = np.swapaxes(butterflies(x, block), -1, axis)
    found = jax.jit(rotate, static_argnums=(1, 2))(jnp.asarray(np.swapaxes(x, -1, axis)), block, axis)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("block", [2, 64, 128])
def test_signs_are_those_of_the_matrix(block):
    i, j = jnp.indices((128, 128))
    np.testing.assert_array_equal(jnp.float32(signs(block, i, j)), block_diag(*[hadamard(block)] * (128 // block)))


def test_is_its_own_inverse_and_keeps_the_norm():
    x = jax.random.normal(jax.random.key(0), (7, 256))
    np.testing.assert_allclose(rotate(rotate(x, 128), 128), x, atol=2e-6)
    np.testing.assert_allclose(jnp.linalg.norm(rotate(x, 128)), jnp.linalg.norm(x), rtol=1e-6)


def test_jit_and_vmap_agree_bit_for_bit():
    x = jax.random.normal(jax.random.key(1), (6, 640))
    eager = rotate(x, 128)
    np.testing.assert_array_equal(jax.jit(lambda x: rotate(x, 128))(x), eager)
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda x: rotate(x, 128)))(x), eager)


@pytest.mark.parametrize("axis", [-1, -2])
def test_its_gradient_is_the_rotation_of_the_gradient(axis):
    x, g = (jax.random.normal(jax.random.key(seed), (3, 32, 64)) for seed in (2, 3))
    _, back = jax.vjp(lambda x: rotate(x, 16, axis), x)
    np.testing.assert_array_equal(back(g)[0], rotate(g, 16, axis))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_types_are_added_in_float32_and_rounded_once(dtype):
    x = jax.random.normal(jax.random.key(4), (5, 128)).astype(dtype)
    found = rotate(x, 128)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rotate(x.astype(jnp.float32), 128).astype(dtype))


@pytest.mark.parametrize("order", [*BASES, 2, 128, 576, 640])
def test_matrices_of_paley_are_symmetric_and_orthogonal(order):
    matrix = np.array(hadamard_matrix(order))
    assert set(np.unique(matrix)) == {-1, 1}
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix @ matrix, order * np.eye(order))


def test_orders():
    known = {2: 1, 128: 1, 12: 12, 640: 20, 768: 12, 576: 36, 1792: 28}
    assert {order: base_of(order) for order in known} == known
    assert [base_of(order) for order in (-4, 0, 1, 3, 6, 44, 100)] == [None] * 7


def test_matrices_of_powers_of_two_are_those_of_sylvester():
    np.testing.assert_array_equal(hadamard_matrix(64), hadamard(64))
    with pytest.raises(ValueError, match="order=44 must be a power of two"):
        hadamard_matrix(44)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize(("width", "block"), [(12, 12), (144, 48), (576, 576), (1280, 640), (1792, 1792)])
def test_orders_that_are_no_power_of_two(width, block, axis):
    x = np.random.default_rng(block).standard_normal((2, 3, width)).astype(np.float32)
    expected = (x.astype(np.float64).reshape(2, 3, -1, block) @ hadamard_matrix(block)).reshape(x.shape) / np.sqrt(
        block
    )
    found = rotate(jnp.asarray(np.swapaxes(x, -1, axis)), block, axis)
    np.testing.assert_allclose(np.swapaxes(found, -1, axis), expected, atol=1e-5)
    np.testing.assert_allclose(rotate(found, block, axis), np.swapaxes(x, -1, axis), atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("block", [2, 128, 256, 640, 1280])
def test_products_are_the_sums_but_for_their_order(block, axis, dtype):
    """In float32 to its rounding, and in others rounded once, so that few values are the next number."""
    rng = np.random.default_rng(block)
    shape = [2560 if i == axis else 3 for i in range(3)]
    x = jnp.asarray(rng.standard_normal(shape), dtype)
    products, sums = (jax.jit(f, static_argnums=(0, 1))(block, axis, x) for f in (by_products, by_sums))
    assert products.dtype == dtype
    near = 3e-6 if dtype == jnp.float32 else float(jnp.finfo(dtype).eps) * 4
    np.testing.assert_allclose(np.float64(products), np.float64(sums), rtol=near, atol=near)
    if dtype != jnp.float32:
        assert np.mean(np.asarray(products) != np.asarray(sums)) < 0.01


@pytest.mark.parametrize(("platform", "products"), [("cpu", 0), ("tpu", 2), ("cuda", 2)])
def test_additions_on_cpus_and_products_elsewhere(platform, products):
    """Forward and backward, in a program that is compiled for that platform, wherever it is traced."""

    def both(x, g):
        y, pull = jax.vjp(lambda x: rotate(x, 128), x)
        return y, pull(g)

    x = jnp.ones((4, 256), jnp.bfloat16)
    text = jax.jit(both).trace(x, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("dot_general") == products
