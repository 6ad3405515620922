"""Attention, loss and norms are computed by the platform: the same numbers to rounding, and on CPUs the plain ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from support import tiny

from capscale.formats.base import Context
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.layers import FeedForward, Gaussian, RMSNorm
from capscale.policy_names import find_representation
from capscale.representation import DENSE

CTX = Context(jnp.float32(0), None)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_norms_keep_their_input_alone_for_the_backward_pass(platform):
    """On accelerators; the same equations, and so the same gradients."""
    norm = RMSNorm(1e-5)
    x = jax.random.normal(jax.random.key(0), (3, 8))
    gain = {"params": {"gain": jax.random.normal(jax.random.key(1), (8,))}}

    def both(gain, x, g):
        value, pull = jax.vjp(norm.apply, gain, x)
        return value, *pull(g)

    plain = jax.make_jaxpr(both)(gain, x, x)
    expected = jax.jit(both)(gain, x, x)
    with dispatch.target(platform):
        found, traced = jax.jit(both)(gain, x, x), jax.make_jaxpr(both)(gain, x, x)
    assert "remat" in str(traced)
    assert "remat" not in str(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("dense", 6, 2), pytest.param("int4 x int4", 7, 4, marks=pytest.mark.ci)],  # with values and masks of projection
)
def test_feed_forward_layers_keep_gate_and_up_alone_for_the_backward_pass(name, before, after):
    """On accelerators, of what has that width; the same equations, and so the same gradients."""
    cfg = replace(tiny.MODEL, feed_forward_width=24)
    layer = FeedForward(cfg, find_representation(name), Gaussian(0.5), Gaussian(0.5), jnp.float32)
    x, g = (jax.random.normal(jax.random.key(seed), (2, 5, 8)) for seed in range(2))
    params = layer.init(jax.random.key(2), x, CTX)

    def pulled(params, x):
        return jax.vjp(lambda params, x: layer.apply(params, x, CTX), params, x)[1]

    def gradients(params, x, g):
        return pulled(params, x)(g)

    def kept(params, x):
        return sum(leaf.shape == (2, 5, 24) for leaf in jax.tree.leaves(jax.eval_shape(pulled, params, x)))

    assert kept(params, x) == before
    expected = jax.jit(gradients)(params, x, g)
    for by_kernels in ("tpu", "gpu"):
        with dispatch.target(by_kernels):
            assert kept(params, x) == after
            found = jax.jit(gradients)(params, x, g)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


@pytest.mark.slow
def test_a_model_by_kernels_is_that_of_the_reference():
    """Loss and gradients of a layer of the least sizes that the kernels take, interpreted, to bfloat16's rounding."""
    model = replace(
        tiny.MODEL, layers=1, heads=1, width=128, context=128, vocabulary=128, dtype="bfloat16", init_std=0.1
    )
    window_BU = jax.random.randint(jax.random.key(2), (2, 129), 0, 128)
    params = initial_params(model, DENSE, jax.random.key(3))

    def loss(params):
        return Decoder(model).apply({"params": params}, window_BU, CTX, 128, method="mean_loss")

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # of jax's own backward passes
        expected = jax.jit(jax.value_and_grad(loss))(params)
        with dispatch.target("tpu", interpret=True):
            found = jax.jit(jax.value_and_grad(loss))(params)
            assert "attention tpu" in dispatch.decisions()
            assert "cross-entropy tpu" in dispatch.decisions()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
    for one, other in zip(*map(jax.tree.leaves, (found[1], expected[1])), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2.0**-6 * np.abs(other).max())
