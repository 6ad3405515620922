"""Codes and scales of rows: the codes that formats store, laid out as said; what the kit does not look at."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import aot, compare, dispatch, testing
from capscale.kernels.project import (
    Encoded,
    ExternalScale,
    LargestOver,
    Pattern,
    RmsTimes,
    Spec,
    decode,
    encode,
    project,
)
from capscale.kernels.project.bitplanes import pack, plane_bytes, unpack
from capscale.kernels.project.codes import coded_grid
from capscale.kernels.project.op import BackendChoice, choose
from capscale.kernels.project.tpu import encode as tpu_codes
from capscale.kernels.project.tpu.tiles import SPILLED, VMEM, Tile, default_tile
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from capscale.estimators import StraightThrough
from capscale.formats import catalog
from capscale.formats.capabilities import initial_context
from capscale.formats.grids import Int
from capscale.formats.levels import TERNARY
from capscale.formats.packing import pack as stored
from capscale.formats.packing import to_bytes
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax
from capscale.fused import given_R1, spec_of

SPEC = Spec(Int(4), RmsTimes(0.3), group=32, rotation=64)
KERNEL = BackendChoice("tpu", interpret=True)
HOWS = (KERNEL, BackendChoice("reference"))
X = jax.random.normal(jax.random.key(0), (2, 3, 256))


def coded(format) -> bool:
    """Whether kernels encode it: those of scales with an offset do not."""
    spec = spec_of(format, StraightThrough())
    try:
        return isinstance(spec, Spec) and coded_grid(spec) is not None
    except ValueError:
        return False


SCALARS = {n: f for n, f in catalog.FORMATS.items() if isinstance(f, Scalar) and coded(f)}
OWN = {"ternary": Scalar(TERNARY, Absmax()), "int3-g256": Scalar(Int(3), Absmax(), 256)}
DEFAULT = {"nvfp4", *OWN}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in DEFAULT else pytest.mark.slow) for n in SCALARS | OWN]
)
def test_codes_and_scales_are_those_that_the_format_stores(name):
    format = (SCALARS | OWN)[name]
    spec, x = spec_of(format, StraightThrough()), testing.rows((8, 512), jnp.float32)[5:]
    assert isinstance(spec, Spec)
    ctx = initial_context(format, x)

    @jax.jit
    def run(x):
        encoded = encode(spec, x, given_R1(format, spec, x, ctx), KERNEL)
        return encoded, decode(spec, encoded, 512, x.dtype), format.project(x, ctx).value

    encoded, value, expected = run(x)
    bits = next(b for b in (1, 2, 4, 8) if 2**b >= format.grid.codes)
    assert encoded.codes.shape == (3, plane_bytes(512, bits))
    (field,) = (f for f in format.layout(x.shape, x.dtype) if f.name == "codes")
    packed = stored(format, x, ctx)
    assert to_bytes(np.asarray(unpack(encoded.codes, 512, bits)), field) == packed.fields["codes"]
    np.testing.assert_array_equal(np.asarray(value).view(np.int32), np.asarray(expected).view(np.int32))


def test_scalar_formats_without_codes_are_those_of_an_offset():
    of_kernels = {n: spec_of(f, StraightThrough()) for n, f in catalog.FORMATS.items() if isinstance(f, Scalar)}
    left = {n: spec for n, spec in of_kernels.items() if isinstance(spec, Spec) and n not in SCALARS}
    assert {spec.scale.statistic for spec in left.values() if spec.scale is not None} == {"extremes"}
    assert all(n.startswith(("affine-", "q4_", "q5_")) for n in left), left.keys()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("width", [1, 128, 640, 1152])
def test_numbers_lie_where_it_is_said(width, bits):
    numbers = np.random.default_rng(0).integers(0, 2**bits, (2, width))
    words = np.asarray(pack(jnp.asarray(numbers), bits))
    stride = 128 * -(-width // (128 * (8 // bits)))
    assert words.shape == (2, stride)
    expected = np.zeros((2, stride), np.uint8)
    for column in range(width):
        expected[:, column % stride] |= (numbers[:, column] << bits * (column // stride)).astype(np.uint8)
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_array_equal(unpack(jnp.asarray(words), width, bits), numbers)


@pytest.mark.parametrize("group", [None, 2, 32, 128, 256])
def test_scales_stand_in_the_order_of_their_groups(group):
    """Of rising magnitude, so that no two groups share one; several registers of them where groups are small."""
    x = jnp.sqrt(jnp.arange(1.0, 1 + 33 * 1024).reshape(33, 1024))
    spec = Spec(Int(4), LargestOver(7.5), group)
    found = jax.jit(lambda x: encode(spec, x, how=KERNEL))(x).scales
    wide = np.asarray(x).reshape(33, -1, group or 1024)
    np.testing.assert_allclose(found, wide.max(axis=-1) / 7.5, rtol=1e-6)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("how", HOWS)
def test_rotated_rows_decode_to_their_projection(how, back):
    spec = replace(SPEC, back=back)
    run = jax.jit(lambda x: (decode(spec, encode(spec, x, how=how), 256, x.dtype), project(spec, x, how=how)))
    np.testing.assert_array_equal(*run(X))


@pytest.mark.ci
def test_transformations():
    """jit, vmap, two devices, no rows, and a gradient that does not pass."""
    run = jax.jit(lambda x: encode(SPEC, x, how=KERNEL))
    expected = jax.jit(lambda x: encode(SPEC, x, how=BackendChoice("reference")))(X)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        rows = jax.device_put(X, NamedSharding(mesh, PartitionSpec("fsdp")))
        split, program = run(rows), str(run.trace(rows).jaxpr)
    assert "shard_map" in program
    for found in (run(X), jax.jit(jax.vmap(run))(X), split):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    none = run(X[:0])
    assert (none.codes.shape, none.scales.shape) == ((0, 3, 128), (0, 3, 8))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(run(x).scales)))(X)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(X))


def test_a_tile_of_the_callers_choice():
    """Several blocks of several tiles, the last of them ragged."""
    x = jnp.tile(X.reshape(6, 256), (50, 1))
    found, expected = (jax.jit(lambda x, h=h: encode(SPEC, x, how=h, tile=Tile(64, 32)))(x) for h in HOWS)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(ValueError, match=r"Tile\(rows=1024, inner=32\) on rows of 8192 float32 values takes .* MiB"):
        encode(SPEC, jnp.zeros((1, 8192)), how=KERNEL, tile=Tile(1024, 32))


@pytest.mark.parametrize(("rule", "group"), [(LargestOver(7.5), 32), (ExternalScale(), 32), (ExternalScale(), None)])
@pytest.mark.parametrize("how", HOWS)
def test_nan_marks_its_group(how, rule, group):
    x, spec = X[0].at[1, 40].set(jnp.nan), Spec(Int(4), rule, group)
    marked = np.zeros((3, 256), bool)
    marked[1, slice(32, 64) if group else slice(None)] = True
    scale = jnp.full((3, 1), 0.5) if rule.given else None
    value, expected = jax.jit(
        lambda x: (decode(spec, encode(spec, x, scale, how), 256, x.dtype), project(spec, x, scale, how))
    )(x)
    np.testing.assert_array_equal(value, jnp.where(marked, jnp.nan, expected))


@pytest.mark.kernel("encode", "device")
@pytest.mark.device
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1, 640), (1000, 640), (4096, 1280)])
@pytest.mark.parametrize("rotation", [None, 128])
@pytest.mark.parametrize("rule", [RmsTimes(0.3), ExternalScale()])
def test_on_the_device(*, rule, rotation, shape, dtype, device):
    """The compiled kernel encodes as XLA's code does on this chip, to the last places; a NaN marks its group."""
    spec = Spec(Int(4), rule, 32, rotation=rotation)
    x = jax.random.normal(jax.random.key(2), shape, jnp.float32).astype(dtype)
    given = jnp.linspace(0.25, 0.5, shape[0]).reshape(shape[0], 1) if rule.given else None
    with dispatch.force("require"):
        how = choose(spec, x, op="encode")
    run, plain = (jax.jit(lambda x, h=h: encode(spec, x, given, h)) for h in (how, BackendChoice("reference")))
    compare.close_codes(
        spec, run(x), plain(x), shape[1], compare.tolerance(dtype, exact_rotation=False, tensor_cores=True)
    )
    special = x.at[0, 5].set(jnp.nan)
    np.testing.assert_array_equal(*(jnp.isnan(f(special).scales) for f in (run, plain)))


def test_dispatch_chooses_the_kernel():
    with dispatch.target("tpu", interpret=True):
        assert "capscale_encode" in str(jax.make_jaxpr(lambda x: encode(SPEC, x))(X))
    with dispatch.target("gpu"), dispatch.force("require"):
        assert "mosaic_gpu" in aot.lower_for_hopper(lambda x: encode(SPEC, x), X)


ENCODED = Encoded(jnp.zeros((2, 3, 128), jnp.uint8), jnp.ones((2, 3, 8)))


def test_rows_of_no_values():
    spec = Spec(Int(4), LargestOver(7.5))
    assert decode(spec, encode(spec, X[..., :0]), 0, X.dtype).shape == (2, 3, 0)


@dataclass(frozen=True)
class Uncoded:
    levels = (-1.0, 1.0)

    def nearest(self, u):
        return jnp.where(u < 0, -1.0, 1.0), jnp.full_like(u, 2.0)


@dataclass(frozen=True)
class TooMany(Int):
    codes = 512


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encode(Spec(pattern=Pattern(2, 4)), X), "only scalar grids without a pattern"),
        (lambda: encode(Spec(Int(4), RmsTimes(1.0), pattern=Pattern(2, 4)), X), "only scalar grids without a pattern"),
        (lambda: encode(Spec(Uncoded(), RmsTimes(1.0)), X), "has no codes: give it"),
        (lambda: encode(Spec(TooMany(8), RmsTimes(1.0)), X), "has 512 codes, a byte holds 256"),
        (lambda: encode(Spec(Int(4), RmsTimes(1.0), group=96), X), "group=96 does not divide"),
        (lambda: encode(Spec(Int(4), ExternalScale()), X), "needs a given number"),
        (lambda: decode(SPEC, ENCODED, 250, jnp.float32), "rotation=64 does not divide rows of 250"),
        (lambda: decode(SPEC, ENCODED, 512, jnp.float32), "512 values have 256 bytes of codes of 4 bits, not 128"),
        (lambda: decode(SPEC, ENCODED._replace(scales=X), 256, jnp.float32), "have 8 scales, not 256"),
    ],
)
def test_what_has_no_codes_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 33, 32768])
def test_the_tiles_of_every_ladder_width_fit(rows, dtype):
    for group in (None, 2, 128):
        spec = Spec(Int(8), LargestOver(127.5), group)
        for width in (*testing.WIDTHS, *([] if group == 2 else [16384])):
            assert tpu_codes.unsupported(spec, (rows, width), dtype) is None
            tile = default_tile((rows, width), dtype, lambda *of, spec=spec: tpu_codes.needs(spec, *of))
            assert tpu_codes.needs(spec, tile, width, dtype) + SPILLED <= VMEM
    assert "do not fit" in str(tpu_codes.unsupported(Spec(Int(8), LargestOver(127.5), 2), (8, 36864), jnp.bfloat16))
