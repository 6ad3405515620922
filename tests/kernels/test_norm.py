"""Rows that the TPU's projection normalises first: near those that XLA normalises, with the gradient of both."""

from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import compare, dispatch, products
from capscale.kernels.matmul.codes import Steps
from capscale.kernels.project import ExternalScale, RmsTimes, Spec, Tile, multiplicand, reference
from capscale.kernels.project.ahead import project_ahead
from capscale.kernels.project.norm import Norm, Normed, normalised
from capscale.kernels.project.op import BackendChoice
from capscale.kernels.project.tpu import project as tpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from capscale.estimators import Trust
from capscale.formats.grids import Int
from capscale.representation import Representation, operand, project_ahead_once, project_once

KERNEL = BackendChoice("tpu", interpret=True)
SPEC = Spec(Int(4), RmsTimes(0.3), mask=Trust(0.4), rotation=128)
EPSILON = 1e-5
GAIN = 1 + 0.1 * jax.random.normal(jax.random.key(3), (384,))


def rows(count, dtype=jnp.float32):
    """Rows of magnitudes apart; the first of zeros, the second below the root of epsilon."""
    x = jax.random.normal(jax.random.key(0), (count, 384)) * jnp.exp(jnp.linspace(-3, 3, count))[:, None]
    return x.at[0].set(0).at[1].multiply(1e-3).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "unit"), [(jnp.bfloat16, 2.0**-9), pytest.param(jnp.float32, 2.0**-24, marks=pytest.mark.slow)]
)
def test_rows_are_normalised_as_the_equation_says(dtype, unit):
    """Against float64, to half a step of a grid of 256 levels."""
    x = rows(70, dtype)
    spec = Spec(Int(8), RmsTimes(2.0**-5))
    found = jax.jit(lambda x: tpu.project(spec, x, ahead=(Norm(EPSILON), (GAIN,)), tile=Tile(64, 32), interpret=True))(
        x
    ).value_RK
    x64 = np.asarray(x, np.float64)
    exact = x64 / np.sqrt((x64**2).mean(axis=1, keepdims=True) + EPSILON) * np.asarray(GAIN, np.float64)
    half_step = 2.0**-5 * np.sqrt((exact**2).mean(axis=1, keepdims=True)) / 2
    inside = np.abs(exact) < 127 * 2 * half_step
    assert inside[1:].mean() > 0.99
    bound = np.where(inside, half_step * 1.001 + 4 * unit * np.abs(exact), np.inf)
    assert (np.abs(np.asarray(found, np.float64) - exact) <= bound).all()


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.bfloat16, marks=pytest.mark.ci), pytest.param(jnp.float32, marks=pytest.mark.slow)]
)
def test_values_masks_and_codes_are_near_those_of_xla(dtype):
    """To what the order of a sum moves; codes are those of the values, exactly."""
    x = rows(70, dtype)
    run = jax.jit(partial(tpu.project, SPEC, ahead=(Norm(EPSILON), (GAIN,)), steps=Steps(0.5), interpret=True))
    found = run(x)
    y = jax.jit(partial(normalised, EPSILON))(x, GAIN)
    compare.close(found, reference.project(SPEC, y), 384, compare.tolerance(dtype, exact_rotation=False))
    expected = multiplicand(SPEC, reference.encode(SPEC, y), 384, Steps(0.5), "int8")
    assert np.mean(np.asarray(found.codes.codes != expected.codes)) <= (1e-4 if dtype == jnp.float32 else 1e-2)
    np.testing.assert_allclose(found.codes.scales, expected.scales, rtol=1e-6 if dtype == jnp.float32 else 2e-2)


def both_ways(spec, x, gain, g, past):
    """Gradients of rows and gain, where the rows are read behind the projection as well."""

    def run(x, gain):
        found = project_ahead(spec, Normed(x, gain, EPSILON), KERNEL)
        return found.value, found.x

    (_, passed), pull = jax.vjp(run, x, gain)
    return passed, *pull((g, past))


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        (SPEC, jnp.float32),
        pytest.param(SPEC, jnp.bfloat16, marks=pytest.mark.ci),
        pytest.param(replace(SPEC, mask=None, back=True), jnp.float32, marks=pytest.mark.ci),
        pytest.param(replace(SPEC, rotation=None), jnp.float32, marks=pytest.mark.ci),
    ],
    ids=["float32", "bfloat16", "back, no mask", "not rotated"],
)
def test_the_gradient_is_that_of_both(spec, dtype):
    """Of the kernel's own mask, for rows and gain, added to what comes past the norm and rounded once."""
    x, *others = (jax.random.normal(jax.random.key(i), (16, 384)).astype(dtype) for i in (0, 1, 2))
    x = x.at[0].set(0)
    passed, *found = jax.jit(partial(both_ways, spec))(x, GAIN, *others)
    np.testing.assert_array_equal(passed, x)
    mask = jax.jit(lambda x: tpu.project(spec, x, ahead=(Norm(EPSILON), (GAIN,)), interpret=True).mask_RW)(x)
    g, past = (of.astype(jnp.float32) for of in (reference.backward(spec, mask, others[0]), others[1]))
    expected = jax.vjp(partial(normalised, EPSILON), x.astype(jnp.float32), GAIN)[1](g)
    assert np.abs(expected[1]).max() > 1
    assert found[0].dtype == dtype
    unit = 2e-5 if dtype == jnp.float32 else 2.0**-8
    scale = np.abs(expected[0]) + np.abs(past)  # of the row of zeros, whose norm is the root of epsilon, hundreds
    assert (np.abs(np.float32(found[0]) - (expected[0] + past)) <= unit * (scale + 1)).all()
    np.testing.assert_allclose(found[1], expected[1], rtol=2e-5, atol=2e-5)


def test_what_lies_behind_the_last_row_is_in_no_gradient():
    """In several strips and blocks, of which the last is ragged; none of no rows."""
    x, g, past = (jax.random.normal(jax.random.key(i), (40, 384)) for i in (0, 1, 2))
    mask = jnp.full((40, 128), 255, jnp.uint8)
    spec = replace(SPEC, rotation=None)
    run = partial(tpu.backward_normed, spec, Norm(EPSILON), interpret=True)
    dx, parts = jax.jit(partial(run, tile=Tile(64, 32)))(mask, (g, past), (x, GAIN))
    expected = jax.vjp(partial(normalised, EPSILON), x, GAIN)[1](g)
    np.testing.assert_allclose(dx, expected[0] + past, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(parts.sum(axis=0), expected[1], rtol=2e-5, atol=2e-5)
    dx, parts = run(mask[:0], (g[:0], past[:0]), (x[:0], GAIN))
    assert dx.shape == (0, 384)
    np.testing.assert_array_equal(parts.sum(axis=0), np.zeros(384))


@pytest.mark.ci
def test_gradients_are_the_same_on_two_devices():
    """Whose gain is one: its gradient is the sum over both."""
    x, g, past = rows(16), *(jax.random.normal(jax.random.key(i), (16, 384)) for i in (1, 2))
    found = jax.jit(partial(both_ways, SPEC))(x, GAIN, g, past)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        split = (jax.device_put(of, NamedSharding(mesh, PartitionSpec("fsdp"))) for of in (x, g, past))
        x, *others = split
        apart = jax.jit(partial(both_ways, SPEC))(x, GAIN, *others)
    for a, b in zip(apart, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int4", "dense"])
def test_signs_ahead_of_a_rotation_are_those_of_the_gain(weights):
    """By a layer's representation, which flips rows behind the norm, and back where they are rotated back."""
    held = Representation(operand(weights), operand("int4", per_token=True), hadamard=128, signs=7)
    normed = Normed(rows(40), GAIN, EPSILON)
    with dispatch.target("tpu", interpret=True):
        found = jax.jit(lambda x: cast(Any, project_ahead_once(normed._replace(x=x), held)).activations.value)(normed.x)
    expected = jax.jit(lambda x: project_once(normed._replace(x=x).value(), held).value)(normed.x)
    differ = np.abs(found - expected) > 1e-5 * np.abs(expected).max()
    assert differ.mean() < 1e-3


def test_what_no_kernel_normalises_is_left_to_xla():
    normed = Normed(rows(40), GAIN, EPSILON)
    for spec, how, reason in (
        (SPEC, BackendChoice("gpu"), "of TPUs alone"),
        (Spec(Int(4), ExternalScale()), KERNEL, "are of normed ones"),
    ):
        with pytest.raises(ValueError, match=reason):
            project_ahead(spec, normed, how)
    int4 = operand("int4", per_token=True)
    codes_in_float8 = Representation(operand("int4"), operand("e4m3", per_token=True))
    for held, mode, whole in (
        (Representation(operand("int4"), int4, hadamard=128), "codes", True),
        (codes_in_float8, "values", True),
        (codes_in_float8, "codes", False),
        (Representation(operand("int4"), int4, hadamard=96), "values", False),  # rotated by XLA
        (Representation(operand("int4"), operand("top50", per_token=True)), "values", False),
        (Representation(operand("int4")), "values", False),
    ):
        found: list[Any] = []

        def trace(x, held=held, found=found):
            found.append(project_ahead_once(normed._replace(x=x), held))

        with dispatch.target("tpu"), products.force(cast(Any, mode)):
            jax.eval_shape(trace, normed.x)
        with dispatch.target("cpu"):
            jax.eval_shape(trace, normed.x)
        assert [each is not None for each in found] == [whole, False]
