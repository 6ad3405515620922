"""Roundings to narrow floats stand in the program by themselves, as XLA takes conversions there and back away."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.hadamard import rotate
from capscale.kernels.project import Spec, reference
from capscale.kernels.rounding import rounded_to

from capscale.defaults import default_estimator
from capscale.formats.base import Context
from capscale.formats.capabilities import learns
from capscale.formats.catalog import find
from capscale.fused import spec_of

NARROWED = re.compile(r"(%\w+) = stablehlo.convert (%\w+) : \(tensor<[^>]*f32>\) -> tensor<[^>]*bf16>")


def unkept(function, *args):
    """Conversions from float32 to bfloat16 of what was not rounded before."""
    functions = jax.jit(function).lower(*args).as_text().split("func.func")
    return [
        found.group(0)
        for text in functions
        for found in NARROWED.finditer(text)
        if f"{found.group(2)} = stablehlo.reduce_precision" not in text
    ]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounds_as_a_conversion_does(dtype):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-8, 3e-5, 65519.0, 65520.0, 3.4e38, 1e-40]
    x = jnp.asarray(np.concatenate([bits, np.float32(special), np.float32(rng.normal(size=10_000))]))
    found, expected = (np.asarray(y).astype(np.float64) for y in (rounded_to(x, dtype), x.astype(dtype)))
    np.testing.assert_array_equal(found, expected)
    assert rounded_to(x, dtype).dtype == dtype


def test_float32_is_left_alone():
    x = jnp.float32(1.001)
    assert rounded_to(x, jnp.float32) == x
    assert rounded_to(jnp.bfloat16(1.5), jnp.float32).dtype == jnp.float32


def test_a_plain_conversion_is_seen():
    assert len(unkept(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), jnp.ones(8))) == 1


def test_rotations_are_rounded():
    assert not unkept(lambda x: rotate(x, 8), jnp.ones((4, 16), jnp.bfloat16))


@pytest.mark.parametrize("name", ["int4", "int4-g32", "mxfp4", "nvfp4", "2:4+int4", "higgs-d2-n16"])
def test_projections_of_rotated_rows_are_rounded(name):
    spec = spec_of(find(name), default_estimator(find(name), True), 32, True)
    assert isinstance(spec, Spec)
    given = jnp.ones((4, 1)) if spec.scale is not None and spec.scale.given else None
    assert not unkept(lambda x: reference.project(spec, x, given), jnp.ones((4, 64), jnp.bfloat16))


@pytest.mark.parametrize("name", ["int4", "int4-g32", "nvfp4", "higgs-d2-n16", "noise4", "int4-outliers1", "lsq4"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_of_formats_are_rounded(name, dtype):
    format = find(name)
    context = Context(key=jax.random.key(0), learned=jnp.float32(0.3) if learns(format) else None)
    assert not unkept(lambda x: format.project(x, context).value, jnp.ones((4, 64), dtype))
