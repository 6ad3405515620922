"""Parts of the TPU's projection that whole formats reach seldom: bit for bit the reference's, interpreted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import compare
from capscale.kernels.project import (
    Codebook,
    ExternalScale,
    LargestOver,
    Pattern,
    RangeOver,
    RmsTimes,
    Spec,
    Tile,
    reference,
)
from capscale.kernels.project.rules import rounding_by_sums
from capscale.kernels.project.tpu import columns, encode, strip_bytes
from capscale.kernels.project.tpu import project as tpu
from capscale.kernels.rms.reference import limb_bits, limbs
from capscale.kernels.select import tpu as select
from support.cases import parametrize

from capscale.estimators import BRms, Hypersphere, Trust
from capscale.formats.grids import Int

GRID = Int(4)
ROTATED = Spec(GRID, RmsTimes(0.3), mask=Trust(0.4), rotation=128)
PAIRS = Codebook(((1.0, 0.0), (-1.0, 0.0), (0.0, 2.0)), 2.0)
CUBES = Codebook(tuple((float(i - 3), float(i % 3), 1.0, -1.0) for i in range(7)), 4.0)


def rows(shape, dtype=jnp.float32):
    """Normal rows; the first of zeros, then tiny ones, huge ones, with a NaN, with an infinity, full of ties."""
    x = jax.random.normal(jax.random.key(1), shape)
    x = x.at[0].set(0.0).at[1].multiply(1e-38).at[2].multiply(8e37).at[3, 3].set(jnp.nan).at[4, 5].set(-jnp.inf)
    return x.at[5].set(jnp.round(2 * x[5])).astype(dtype)


def agree(spec, x, tile=None, given=None):
    found = jax.jit(partial(tpu.project, spec, tile=tile, interpret=True))(x, given)
    compare.same(found, reference.project(spec, x, given), x.shape[1], x)


@parametrize(
    ("group", "dtype"),
    [(4, jnp.bfloat16), (128, jnp.float32), (2, jnp.float32), (16, jnp.float32), (64, jnp.bfloat16)],
    default=2,
)
def test_groups_of_every_size(group, dtype):
    """Within a register, in several, a tile, and more."""
    agree(Spec(GRID, RmsTimes(0.3), group, mask=Trust(0.4)), rows((7, 256), dtype))


@parametrize(
    "spec",
    [
        Spec(pattern=Pattern(4, 16), mask=BRms(0.1)),
        Spec(pattern=Pattern(8, 16, unit=4), mask=BRms(0.1)),
        Spec(GRID, RmsTimes(0.3), 32, pattern=Pattern(2, 4), mask=Trust(0.4)),
        Spec(GRID, LargestOver(7.5), 2, pattern=Pattern(2, 8, dense_scales=True), mask=Trust(0.4)),
        Spec(GRID, RangeOver(-7.5, 7.5), 16, mask=Trust(0.4)),
        Spec(GRID, ExternalScale(), mask=Trust(0.4)),
        Spec(scale=RmsTimes(1.0), group=32, codebook=PAIRS, mask=Hypersphere()),
        Spec(scale=RmsTimes(1.0), codebook=CUBES, mask=Hypersphere()),
    ],
    default=3,
    ids=str,
)
def test_patterns_offsets_and_codebooks(spec):
    x = rows((7, 256))
    agree(spec, x, given=jnp.linspace(0.0, 0.5, 7)[:, None] if spec.scale is not None and spec.scale.given else None)


@pytest.mark.ci
@pytest.mark.parametrize(("group", "inner", "width"), [(None, 32, 4608), (32, 64, 896), (None, 128, 896)])
def test_several_tiles_in_a_trip(group, inner, width, monkeypatch):
    """Trips that leave a rest, rows in part of the lanes, several strips, and masks of more than one word."""
    monkeypatch.setattr(tpu, "at_once", lambda spec, interpret: 3)
    agree(Spec(GRID, RmsTimes(0.3), group, mask=Trust(0.4)), rows((7, width)), Tile(128, inner))


def test_whole_numbers_by_sums_are_the_nearest():
    """Ties to even, up to 2^22; NaN and infinities stay, and what is larger stays large."""
    x = np.concatenate([np.arange(-9, 9, 0.25), [2.0**22 - 0.5, -(2.0**22) + 0.5, np.inf, -np.inf, np.nan]])
    zero = jnp.zeros(x.shape)
    found = jax.jit(lambda x, zero: rounding_by_sums(zero, jnp.round, x))(jnp.float32(x), zero)
    np.testing.assert_array_equal(found, np.round(np.float32(x)))
    assert "round" not in str(jax.make_jaxpr(lambda x: rounding_by_sums(zero, jnp.round, x))(x))
    far = jnp.float32([2.0**22 + 0.5, 2.0**23 + 1, 1e30])
    np.testing.assert_allclose(rounding_by_sums(jnp.zeros(3), jnp.round, far), far, rtol=2**-21)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("size", [2, 8, 32, 64, 4096])
def test_sums_of_limbs_are_those_of_the_limbs(size, exact):
    """Less their excess, modulo 2^32; at the largest float too, whose squares in these units are close to 16."""
    x = jax.random.normal(jax.random.key(2), (128, 32))
    x = (x.astype(jnp.bfloat16) if exact else x).astype(jnp.float32).at[5].set(3.984375)
    bits, one = limb_bits(size), jnp.ones((1, 8, 32))
    zero = jnp.zeros((1, 8, 32))
    found = jax.jit(lambda x, zero: columns.Limbs(bits, exact, zero).sums(x, columns.spread(one), size))(x, zero)
    excess = columns.Limbs(bits, exact, zero).excess(
        max(min(size, 128) // 8, 1)
    )  # of as many registers as there are in a run
    for total, limb, over in zip(found, limbs(x, jnp.float32(1.0), bits), excess, strict=True):
        np.testing.assert_array_equal(total - jnp.int32(over), columns.gathered(limb, size, jnp.add))


@pytest.mark.parametrize("count", [128, 512, 640])
def test_bytes_of_a_strip_have_places_of_their_own(count):
    """Every bit of every byte of a row is one tile's."""
    words, taken = count // 128, set()
    for c in range(8 * words):
        bit = int(strip_bytes.lowest_bit(jnp.int32(c), count, 1))
        taken.add((c % words // 4, bit))
        assert bit // 8 == c % words % 4, "its byte of the word"
        assert bit % 8 == c // words, "its bit of the byte"
    assert len(taken) == 8 * words
    assert strip_bytes.scratch_rows(count) == 128 * -(-count // 512)


@pytest.mark.parametrize(
    ("run", "nbytes"),
    [
        (lambda x: tpu.project(ROTATED, x), 2 * 2 * 8 * 640 + 8 * 128),
        (lambda x: tpu.backward(ROTATED, jnp.zeros((8, 128), jnp.uint8), x), 2 * 2 * 8 * 640 + 8 * 128),
        (lambda x: encode.encode(ROTATED, x), 2 * 8 * 640 + 8 * 384 + 4 * 8 * 128),
        (lambda x: select.largest(x[None], jnp.int32(3), (-1,)), 2 * 8 * 640 + 8 * 640),
    ],
    ids=["project", "backward", "encode", "select"],
)
def test_every_kernel_tells_what_it_costs(run, nbytes):
    """Rows, results and masks once each; XLA would count a few kilobytes."""
    traced = jax.make_jaxpr(run)(jax.ShapeDtypeStruct((8, 640), jnp.bfloat16)).jaxpr
    (call,) = (step for step in traced.eqns if step.primitive.name == "pallas_call")
    assert call.params["cost_estimate"].bytes_accessed == nbytes
    assert call.params["cost_estimate"].flops > 8 * 640 * 20
