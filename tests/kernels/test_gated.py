"""A gated product that the TPU's projection takes first: bit for bit that of its steps, with the gradient of both."""

from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch, products
from capscale.kernels.matmul.codes import Steps
from capscale.kernels.project import ExternalScale, RmsTimes, Spec, Tile, reference
from capscale.kernels.project.ahead import project_ahead
from capscale.kernels.project.gated import Gate, Gated, gated
from capscale.kernels.project.op import BackendChoice
from capscale.kernels.project.tpu import project as tpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from capscale.estimators import Trust
from capscale.formats.base import NO_CONTEXT
from capscale.formats.grids import Int
from capscale.models.config import ModelConfig
from capscale.models.layers import FeedForward, Gaussian
from capscale.representation import Representation, operand, project_ahead_once, project_once

KERNEL = BackendChoice("tpu", interpret=True)
SPEC = Spec(Int(4), RmsTimes(0.3), mask=Trust(0.4), rotation=128)
SIGNS = 1.0 - 2 * jax.random.bernoulli(jax.random.key(9), shape=(256,)).astype(jnp.float32)


def rows(count, dtype: Any = jnp.float32):
    """Gate and up, of magnitudes up to where silu is zero or its argument; the first row of gates is zero."""
    gate, up = (jax.random.normal(jax.random.key(i), (count, 256)) for i in (0, 1))
    wide = jnp.exp(jnp.linspace(-3, 5, count))[:, None]
    return (gate * wide).at[0].set(0).astype(dtype), up.astype(dtype)


def step_by_step(gate, up, signs):
    """The product with float32 rounded to the dtype by every step, each a program of its own."""
    wide, narrow = partial(jnp.asarray, dtype=jnp.float32), partial(jnp.asarray, dtype=gate.dtype)
    share = narrow(jax.lax.logistic(wide(gate)))
    silu = narrow(wide(gate) * wide(share))
    return narrow(wide(silu) * wide(up) * signs[None])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float32, marks=pytest.mark.ci)])
def test_values_masks_and_codes_are_those_of_two_steps(dtype):
    """Bit for bit, in several strips and blocks, the last one ragged; the product near float64's."""
    gate, up = rows(40, dtype)
    y = step_by_step(gate, up, SIGNS)
    exact = np.float64(gate) / (1 + np.exp(-np.float64(gate))) * np.float64(up) * np.float64(SIGNS)
    unit = float(jnp.finfo(dtype).eps) / 2
    np.testing.assert_allclose(np.float64(y), exact, rtol=(3 if dtype == jnp.bfloat16 else 8) * unit, atol=1e-30)
    run = partial(tpu.project, SPEC, steps=Steps(0.5), tile=Tile(32, 32), interpret=True)
    found = jax.jit(lambda gate, *others: run(gate, ahead=(Gate(), others)))(gate, up, SIGNS)
    expected = jax.jit(run)(y)
    assert np.mean(np.asarray(found.value_RK, np.float32) != 0) > 0.5
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.ci
@pytest.mark.parametrize("spec", [replace(SPEC, rotation=None), Spec(Int(4), RmsTimes(0.3))], ids=["masked", "plain"])
def test_the_gradient_is_that_of_the_plain_expression_through_the_mask(spec):
    """In float32 to its last digits, in bfloat16 to a rounding; the same on two devices; none of no rows."""
    (gate, up), g = rows(16), jax.random.normal(jax.random.key(2), (16, 256))

    def pulled(gate, up, g):
        return jax.vjp(lambda *of: project_ahead(spec, Gated(*of, signs=SIGNS), KERNEL)[0], gate, up)[1](g)

    mask = jax.jit(lambda gate, up: tpu.project(spec, gate, ahead=(Gate(), (up, SIGNS)), interpret=True).mask_RW)
    for dtype, near in ((jnp.float32, 2e-6), (jnp.bfloat16, 2.0**-7)):
        given = [of.astype(dtype) for of in (gate, up, g)]
        found = jax.jit(pulled)(*given)
        behind = reference.backward(spec, mask(*given[:2]), given[2]).astype(jnp.float32)
        expected = jax.vjp(partial(gated, signs=SIGNS), *(of.astype(jnp.float32) for of in given[:2]))[1](behind)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            largest = np.abs(b).max(axis=1, keepdims=True)  # the derivative of silu is zero in the midst of it
            assert (np.abs(np.float32(a) - b) <= near * np.abs(b) + 2e-6 * largest).all()
            assert np.mean(np.asarray(b) != 0) > 0.2
    found = jax.jit(pulled)(gate, up, g)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        split = (jax.device_put(of, NamedSharding(mesh, PartitionSpec("fsdp"))) for of in (gate, up, g))
        apart = jax.jit(pulled)(*split)
    jax.tree.map(np.testing.assert_array_equal, apart, found)
    assert [of.shape for of in pulled(gate[:0], up[:0], g[:0])] == [(0, 256)] * 2


@pytest.mark.parametrize(
    "weights", [pytest.param("dense", marks=pytest.mark.ci), pytest.param("int4", marks=pytest.mark.slow)]
)
def test_signs_ahead_of_a_rotation_are_those_behind_the_product(weights):
    """By a layer's representation; in float32, whose product XLA takes by the same steps."""
    held = Representation(operand(weights), operand("int4", per_token=True), hadamard=128, signs=7)
    of = Gated(*rows(40))
    with dispatch.target("tpu", interpret=True):
        found = jax.jit(lambda *rows: cast(Any, project_ahead_once(Gated(*rows), held)).activations.value)(
            of.gate, of.up
        )
        expected = jax.jit(lambda *rows: project_once(Gated(*rows).value(), held).value)(of.gate, of.up)
    differ = np.abs(found - expected) > 1e-5 * np.abs(expected).max(axis=1, keepdims=True)
    assert differ.mean() < 1e-3


def feed_forward(held, mode, params=None):
    """Output, and gradients of weights and input, of a layer whose hidden width is of whole lanes."""
    model = ModelConfig(vocabulary=8, width=128, heads=2, layers=1, context=8, feed_forward_width=256)
    layer = FeedForward(model, held, Gaussian(0.1), Gaussian(0.1), jnp.float32)
    x, g = (jax.random.normal(jax.random.key(i), (2, 8, 128)) for i in (3, 4))
    params = layer.init(jax.random.key(5), x, NO_CONTEXT)
    with dispatch.target("tpu", interpret=True), dispatch.force(mode):
        y, pull = jax.vjp(lambda p, x: jax.jit(layer.apply)(p, x, NO_CONTEXT), params, x)
        return y, *pull(g)


@pytest.mark.slow
def test_a_feed_forward_layer_computes_what_it_does_without_kernels():
    held = Representation(operand("int4"), operand("int4", per_token=True), hadamard=128)
    for a, b in zip(*(jax.tree.leaves(feed_forward(held, mode)) for mode in ("require", "reference")), strict=True):
        assert np.mean(np.abs(a - b) > 1e-4 * np.abs(b).max()) < 1e-3


def test_what_no_kernel_takes_is_left_to_xla():
    of = Gated(*rows(40))
    for spec, rows_of, how, reason in (
        (SPEC, of, BackendChoice("gpu"), "of TPUs alone"),
        (Spec(Int(4), ExternalScale()), of, KERNEL, "are of gated ones"),
        (SPEC, of._replace(up=of.up.astype(jnp.bfloat16)), KERNEL, "differ in shape or dtype"),
    ):
        with pytest.raises(ValueError, match=reason):
            project_ahead(spec, rows_of, how)
    int4 = operand("int4", per_token=True)
    for held, mode, whole in (
        (Representation(operand("int4"), int4, hadamard=128), "codes", True),
        (Representation(operand("int4"), operand("e4m3", per_token=True)), "codes", False),
        (Representation(operand("int4")), "values", False),
    ):
        found: list[Any] = []

        def trace(gate, up, held=held, found=found):
            found.append(project_ahead_once(Gated(gate, up), held))

        with products.force(cast(Any, mode)):
            for platform in ("tpu", "cpu"):
                with dispatch.target(platform):
                    jax.eval_shape(trace, of.gate, of.up)
        assert [each is not None for each in found] == [whole, False]
