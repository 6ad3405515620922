"""The projection as an operation: its transformations, meshes, masks, and what it refuses."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import compare, dispatch
from capscale.kernels.project import (
    Codebook,
    ExternalScale,
    LargestOver,
    Pattern,
    RmsTimes,
    Spec,
    Tile,
    op,
    project,
    reference,
)
from capscale.kernels.project.mask import mask_bytes, pack_mask, unpack_mask
from capscale.kernels.project.op import BackendChoice, choose
from capscale.kernels.project.spec import nearest_word
from capscale.kernels.project.tpu import project as tpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from capscale.estimators import Hypersphere, Trust
from capscale.formats.grids import Int

SPEC = Spec(Int(4), LargestOver(7.5), mask=Trust(0.3))
PAIRS = Codebook(((1.0, 0.0), (-1.0, 0.0), (0.0, 2.0)), 2.0)
KERNEL = BackendChoice("tpu", interpret=True)
X = jax.random.normal(jax.random.key(0), (2, 3, 128))
G = jax.random.normal(jax.random.key(1), (2, 3, 128))


def both(x, g, how=KERNEL, spec=SPEC, tile=None):
    """Value and gradient."""
    value, pull = jax.vjp(lambda x: project(spec, x, how=how, tile=tile), x)
    return value, pull(g)[0]


@pytest.fixture(scope="module")
def expected():
    flat = X.reshape(6, 128)
    value, mask, _ = reference.project(SPEC, flat)
    return value.reshape(X.shape), reference.backward(SPEC, mask, G.reshape(6, 128)).reshape(X.shape)


def agree(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_reference_is_the_equation():
    """Nearest of 16 levels by brute force in float64; the gradient passes within 0.3 of a step."""
    x = np.asarray(X, np.float64).reshape(6, 128)
    levels = (np.arange(16) - 7.5) * (np.abs(x).max(axis=1)[:, None, None] / 7.5)
    index = np.abs(x[..., None] - levels).argmin(axis=-1)
    nearest = np.take_along_axis(np.broadcast_to(levels, (6, 128, 16)), index[..., None], axis=-1)[..., 0]
    value, gradient = both(X, G, BackendChoice("reference"))
    np.testing.assert_allclose(value.reshape(6, 128), nearest, rtol=1e-6)
    passes = np.abs(x - nearest) <= 0.3 * np.diff(levels, axis=-1)[:, :, 0]
    np.testing.assert_array_equal(gradient.reshape(6, 128), np.where(passes, G.reshape(6, 128), 0))
    assert 0.5 < passes.mean() < 0.7


def test_jit_and_remat(expected):
    agree(jax.jit(both)(X, G), expected)
    again = jax.checkpoint(lambda x: project(SPEC, x, how=KERNEL))
    np.testing.assert_array_equal(jax.jit(lambda x, g: jax.vjp(again, x)[1](g)[0])(X, G), expected[1])


def test_vmap_over_either_axis(expected):
    agree(jax.jit(jax.vmap(both))(X, G), expected)
    agree(jax.jit(jax.vmap(both, in_axes=1, out_axes=1))(X, G), expected)


def test_scan(expected):
    _, found = jax.jit(lambda x, g: jax.lax.scan(lambda carry, xg: (carry, both(*xg)), 0, (x, g)))(X, G)
    agree(found, expected)


@pytest.mark.parametrize(
    "spec", [PartitionSpec("fsdp"), pytest.param(PartitionSpec(None, None, "fsdp"), marks=pytest.mark.slow)]
)
def test_two_devices_agree_with_one(expected, spec):
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, spec)
    with jax.set_mesh(mesh):
        traced = jax.jit(both).trace(jax.device_put(X, split), jax.device_put(G, split))
        found = jax.jit(both)(jax.device_put(X, split), jax.device_put(G, split))
    assert "shard_map" in str(traced.jaxpr)
    agree(found, expected)


def test_rows_that_do_not_divide_are_computed_on_all_devices(expected):
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        found = jax.jit(both)(X[0], G[0])
    agree(found, [y[0] for y in expected])


def test_dispatch_chooses_the_kernel():
    def text():
        return str(jax.make_jaxpr(lambda x: project(SPEC, x))(X))

    assert "pallas_call" not in text()
    with dispatch.target("tpu", interpret=True):
        assert "pallas_call" in text()
        with dispatch.force("reference"):
            assert "pallas_call" not in text()
    explicit = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Explicit,))
    refused = pytest.raises(ValueError, match="axes of the context mesh are explicit")
    with dispatch.target("tpu"), dispatch.force("require"), jax.set_mesh(explicit), refused:
        project(SPEC, jnp.ones((4, 128)))


@pytest.mark.parametrize("first", [AxisType.Auto, AxisType.Explicit])
def test_each_mesh_has_its_own_choice(first, monkeypatch):
    """Whichever is asked about first."""
    monkeypatch.setattr(dispatch, "_decided", {})
    backends = {AxisType.Auto: "tpu", AxisType.Explicit: "reference"}
    for kind in sorted(backends, key=lambda kind: kind != first):
        mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(kind,))
        with dispatch.target("tpu"), jax.set_mesh(mesh):
            assert choose(SPEC, X).backend == backends[kind]


def test_a_tile_of_the_callers_choice(expected):
    """Several blocks of several tiles, the last of them ragged: the same numbers; the reference has none."""
    x, g = (jnp.tile(y.reshape(6, 128), (50, 1)) for y in (X, G))
    for how in (KERNEL, BackendChoice("reference")):
        function = jax.jit(partial(both, how=how, tile=Tile(64, 32)))
        agree(function(x, g), [jnp.tile(y.reshape(6, 128), (50, 1)) for y in expected])
    assert "Blocked(block_size=64)" in str(jax.make_jaxpr(partial(both, tile=Tile(64, 32)))(x, g))


@pytest.mark.kernel("project", "device")
@pytest.mark.device
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1, 640), (1000, 640), (4096, 1280)])
@pytest.mark.parametrize("rotation", [None, 128])
def test_on_the_device(shape, dtype, rotation, device):
    """The compiled kernel does what XLA's code does on this chip, to the last places that divisions may differ in."""
    spec = replace(SPEC, rotation=rotation)
    x, g = (jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype) for seed in (2, 3))
    with dispatch.force("require"):
        how = choose(spec, x)
    assert how.backend == dispatch.current().platform
    kernel = op._module(how.backend)
    run, plain = (jax.jit(partial(m.project, spec, **o)) for m, o in ((kernel, how.options()), (reference, {})))
    allowed = compare.tolerance(dtype, exact_rotation=False, tensor_cores=how.backend == "gpu")
    found = run(x)
    compare.close(found, plain(x), shape[1], allowed)
    special = x.at[0, 5].set(jnp.nan) if shape[0] == 1 else x.at[0].set(0.0).at[1, 5].set(jnp.nan)
    np.testing.assert_array_equal(*(jnp.isnan(f(special).value_RK) for f in (run, plain)))
    back = jax.jit(partial(kernel.backward, spec, **how.options()))(found.mask_RW, g)
    expected = jax.jit(partial(reference.backward, spec))(found.mask_RW, g)
    np.testing.assert_allclose(np.float32(back), np.float32(expected), rtol=2**-7, atol=1e-5)


def test_the_codebook_is_the_equation():
    """Nearest codeword by brute force; the radius is the vector's norm over the outermost's."""
    x = np.asarray(X, np.float64).reshape(6, 64, 2)
    scale = np.sqrt((x**2).mean(axis=(1, 2)))[:, None, None]
    words = np.array(PAIRS.words)
    index = np.square(x[:, :, None, :] / scale[..., None] - words).sum(axis=-1).argmin(axis=-1)
    inside = np.linalg.norm(x / scale, axis=-1) <= 2.0
    spec = Spec(scale=RmsTimes(1.0), codebook=PAIRS, mask=Hypersphere())
    value, gradient = both(X, G, BackendChoice("reference"), spec)
    np.testing.assert_allclose(value.reshape(6, 64, 2), words[index] * scale, rtol=1e-6)
    np.testing.assert_array_equal(gradient.reshape(6, 64, 2), np.where(inside[..., None], G.reshape(6, 64, 2), 0))
    assert 0.7 < inside.mean() < 0.95


def test_of_codewords_as_near_the_first_is_chosen():
    words = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    table = Codebook(words, 1.0).table()
    vector = [jnp.float32([0.0, 0.5, -0.5, 0.0]), jnp.float32([0.0, 0.5, -0.5, -0.1])]
    chosen = jnp.stack(nearest_word(4, lambda i: list(table[i]), vector), axis=-1)
    np.testing.assert_array_equal(chosen, jnp.float32([words[0], words[0], words[1], words[3]]))


@pytest.mark.parametrize("width", [128, 640, 1024, 1152, 5632])
def test_masks_pack_and_unpack(width):
    mask = jax.random.bernoulli(jax.random.key(width), 0.5, (3, width))
    words = pack_mask(mask)
    assert words.shape == (3, mask_bytes(width))
    np.testing.assert_array_equal(unpack_mask(words, width), mask)
    column, stride = width - 1, mask_bytes(width)
    bit = (np.asarray(words)[:, column % stride] >> (column // stride)) & 1
    np.testing.assert_array_equal(bit, np.asarray(mask)[:, column])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Spec, "give a grid or a codebook with its scale rule"),
        (lambda: Spec(Int(4)), "give a grid or a codebook with its scale rule"),
        (lambda: Spec(pattern=Pattern(2, 4), back=True), "rotates back by `rotation`"),
        (lambda: Spec(Int(4), RmsTimes(1.0), group=1), "group=1 must be at least 2"),
        (lambda: project(Spec(Int(4), RmsTimes(1.0), group=96), X), "group=96 does not divide rows of 128"),
        (lambda: project(Spec(pattern=Pattern(2, 5)), X), "m=5 does not divide"),
        (lambda: project(Spec(Int(4), RmsTimes(1.0), rotation=44), X[..., :88]), "must be a power of two"),
        (lambda: project(Spec(Int(4), RmsTimes(1.0), 4, pattern=Pattern(4, 8)), X), "splits a run of 8"),
        (lambda: Spec(scale=RmsTimes(1.0), codebook=PAIRS, pattern=Pattern(2, 4)), "a codebook has no pattern"),
        (lambda: project(Spec(scale=RmsTimes(1.0), codebook=PAIRS), jnp.ones((2, 5))), "dimension=2 does not divide"),
        (lambda: project(Spec(Int(4), ExternalScale()), X), "needs a given number of every row"),
        (lambda: project(SPEC, X, jnp.ones((2, 3, 1))), "reads no given number"),
        (lambda: Tile(64, 48), r"Tile\(rows=64, inner=48\): `inner` must be a multiple of 32"),
        (lambda: Tile(96, 64), "and `rows` one of `inner`"),
        (lambda: Tile(32, 0), "must be a multiple of 32"),
        (lambda: project(SPEC, X, how=KERNEL, tile=Tile(2**14, 32)), "rows of 128 float32 values takes .* are 16; use"),
        (lambda: tpu.project(SPEC, X[0], rotate_by="sums"), "rotate_by='sums': use product or butterflies"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_rows():
    for how in (KERNEL, BackendChoice("reference")):
        value, gradient = both(jnp.zeros((0, 128)), jnp.zeros((0, 128)), how)
        assert value.shape == gradient.shape == (0, 128)


def test_equal_specifications_compile_once():
    calls = []

    @partial(jax.jit, static_argnums=0)
    def count(spec, x):
        calls.append(1)
        return project(spec, x)

    count(Spec(Int(4), LargestOver(7.5), mask=Trust(0.3)), X)
    count(SPEC, X)
    assert len(calls) == 1
