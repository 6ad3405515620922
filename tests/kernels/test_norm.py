"""Rows that the TPU's projection normalises first: near those that XLA normalises, with the gradient of both."""

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


@pytest.mark.ci
def test_the_gradient_is_that_of_both():
    """Of the kernel's own mask, for rows and gain; the same on two devices, whose gains are one."""
    x, g = rows(16), jax.random.normal(jax.random.key(1), (16, 384))

    def pulled(x, gain, g):
        return jax.vjp(lambda x, gain: project_ahead(SPEC, Normed(x, gain, EPSILON), KERNEL)[0], x, gain)[1](g)

    found = jax.jit(pulled)(x, GAIN, g)
    mask = jax.jit(lambda x: tpu.project(SPEC, x, ahead=(Norm(EPSILON), (GAIN,)), interpret=True).mask_RW)(x)
    _, pull = jax.vjp(partial(normalised, EPSILON), x, GAIN)
    expected = pull(reference.backward(SPEC, mask, g))
    assert np.abs(expected[1]).max() > 1
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        split, split_g = (jax.device_put(of, NamedSharding(mesh, PartitionSpec("fsdp"))) for of in (x, g))
        apart = jax.jit(pulled)(split, GAIN, split_g)
    for a, b in zip(apart, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int4", "dense"])
def test_signs_ahead_of_a_rotation_are_those_of_the_gain(weights):
    """By a layer's representation, which flips rows behind the norm, and back where they are rotated back."""
    held = Representation(operand(weights), operand("int4", per_token=True), hadamard=128, signs=7)
    normed = Normed(rows(40), GAIN, EPSILON)
    with dispatch.target("tpu", interpret=True):
        found = jax.jit(lambda x: cast(Any, project_ahead_once(normed._replace(x=x), held)).value)(normed.x)
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
