"""Rotation of queries and keys by a product, as on TPUs: exact, and near the equation, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch

from capscale.models.rope import Llama3Rope
from capscale.models.rotary import rotary_embedding, turned

SCALING = Llama3Rope(8.0, 1.0, 4.0, 64)


def by(platform, x, g, theta=100.0):
    """Values on a platform, and gradients."""
    with dispatch.target(platform):
        value, pull = jax.vjp(lambda x: rotary_embedding(x, theta, SCALING), x)
        return value, *pull(g)


@pytest.mark.parametrize(("dtype", "unit"), [(jnp.float32, 2.0**-24), (jnp.bfloat16, 2.0**-9)])
def test_a_product_turns_as_halves_do(dtype, unit):
    """To one rounding of the result, beside those of the float32 sum."""
    x, g = (jax.random.normal(jax.random.key(seed), (2, 9, 3, 16)).astype(dtype) for seed in range(2))
    for one, other in zip(by("tpu", x, g), by("cpu", x, g), strict=True):
        assert one.dtype == dtype
        found, expected = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert np.abs(found - expected).max() <= 2 * unit * np.abs(expected).max()
        assert np.mean(found != expected) <= (1e-2 if dtype == jnp.bfloat16 else 0.5)


def test_the_product_is_exact_and_its_gradient_is_turned_back():
    """By a quarter, features of any size and sign only change places; by nothing, they stay."""
    x = jax.random.normal(jax.random.key(2), (1, 4, 2, 8)) * jnp.exp2(jnp.arange(-4.0, 4.0).reshape(1, 1, 1, 8) * 5)
    zero, one = jnp.zeros((1, 4, 1, 8)), jnp.ones((1, 4, 1, 8))
    quarter, pull = jax.vjp(lambda x: turned(x, zero, one), x)
    np.testing.assert_array_equal(quarter, np.concatenate([-x[..., 4:], x[..., :4]], axis=-1))
    np.testing.assert_array_equal(pull(quarter)[0], x)
    np.testing.assert_array_equal(turned(x, one, zero), x)


def test_products_are_of_tpus_alone_and_keep_angles_for_the_backward_pass():
    x = jax.ShapeDtypeStruct((2, 9, 3, 16), jnp.bfloat16)

    def kept(x):
        return jax.vjp(lambda x: rotary_embedding(x, 1e4), x)[1]

    products: dict[dispatch.Platform, bool] = {"cpu": False, "gpu": False, "tpu": True}
    for platform, product in products.items():
        with dispatch.target(platform):
            assert ("dot_general" in str(jax.make_jaxpr(lambda x: rotary_embedding(x, 1e4))(x))) == product
            assert x.shape not in {leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(kept, x))}
