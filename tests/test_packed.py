"""Packed weights as the kernels read them, and linear layers on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.matmul.reference import dequantize, tolerance
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats import Int, Scalar
from capscale.formats.catalog import find
from capscale.formats.packing import pack, unpack
from capscale.packed import load_weights, pack_weights, packed_linear
from capscale.representation import Representation, linear, operand

SCALARS = ("int1", "int2", "int4", "int8", "mid-tread-int4", "twos-int8", "lloyd4", "e2m1", "absmax-int4", "e3m0")
GROUPED = ("int4-g32", "absmax-int4-g128", "mxfp4", "nvfp4")
SPARSE = ("2:4+int2", "2:4+int4", "2:4+int8", "2:4+mxfp4", "2:4+e2m1")


def matrix(rows: int, width: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((rows, width)), jnp.float32)


@parametrize("name", [*SCALARS, *GROUPED, *SPARSE], default=[SCALARS[0], GROUPED[0], SPARSE[0]])
def test_the_bytes_mean_what_unpack_says(name):
    packed = pack(find(name), matrix(6, 256).at[2].set(0.0))
    weights = load_weights(packed)
    np.testing.assert_array_equal(dequantize(weights), unpack(packed))
    flipped = weights.codes.at[0, 0, 0].set(weights.codes[0, 0, 0] ^ 1)
    assert not np.array_equal(
        dequantize(type(weights)(flipped, weights.pattern, weights.scale, weights.layout)), unpack(packed)
    )


def test_one_scale_for_the_matrix():
    packed = pack(Scalar(Int(4), group="matrix"), matrix(4, 64))
    np.testing.assert_array_equal(dequantize(load_weights(packed)), unpack(packed))


def test_codes_keep_their_bytes():
    packed = pack(find("int4"), matrix(6, 256))
    assert np.asarray(load_weights(packed).codes).tobytes() == packed.fields["codes"]


@pytest.mark.parametrize(("hadamard", "signs"), [(None, None), (128, None), (128, 7)])
@pytest.mark.parametrize("activations", [None, "int8"])
@pytest.mark.parametrize("weights", ["int4", "2:4+int4"])
def test_packed_linear_is_linear(weights, activations, hadamard, signs):
    """In float32, where both differ by summation order and by what the rotation rounds."""
    representation = Representation(operand(weights), hadamard=hadamard, signs=signs)
    if activations is not None:
        representation = Representation(operand(weights), operand(activations), hadamard, signs)
    w, x = matrix(256, 48), matrix(5, 256) * 2
    packed = load_weights(pack_weights(w, representation))
    found = packed_linear(x, packed, representation)
    expected = linear(x, w, representation)
    bound = 4 * tolerance(256, jnp.dtype(jnp.float32)) * float(jnp.max(jnp.abs(x) @ jnp.abs(w)))
    np.testing.assert_allclose(found, expected, atol=bound)
    assert float(jnp.max(jnp.abs(linear(x, w) - expected))) > 100 * bound, "compression is seen"


@pytest.mark.parametrize(
    ("format", "shape", "message"),
    [
        ("int3", (4, 64), "no kernel reads"),
        ("ternary", (4, 64), "no kernel reads"),
        ("e4m3", (4, 64), "without even spacing"),
        ("top50", (4, 64), "no kernel reads"),
        ("1:4", (4, 64), "no kernel reads"),
        ("higgs-d2-n16", (4, 64), "no kernel reads"),
        ("top50+int4", (4, 64), "no kernel reads"),
        ("int4", (4, 63), "must divide"),
        pytest.param("int4", (2, 4, 64), "kernels read matrices", marks=pytest.mark.ci),
    ],
)
def test_what_no_kernel_reads_is_refused(format, shape, message):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    with pytest.raises(UserError, match=message):
        load_weights(pack(find(format), x))
