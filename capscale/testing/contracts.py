"""The contracts every format is held to, as functions of a format: a new format passes them from one table row."""

from functools import partial
from math import log2, prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from capscale.errors import UserError
from capscale.formats.base import Context, granularity_of
from capscale.formats.capabilities import Stateful, any_order, draws, has_limit
from capscale.formats.groups import Groups
from capscale.formats.mse import ErrorOfShape
from capscale.formats.packing import expected_bytes, pack, unpack
from capscale.formats.scaling import ROW
from capscale.formats.storage import Storable, storage_bits
from capscale.gaussian_mse import gmse, gmse_of_shape
from capscale.masks import Pulls
from capscale.representation import project

from .subject import (
    WIDTH,
    Subject,
    agree,
    never_again,
    not_stored,
    one_device,
    same_bits,
    unless,
    whole,
    without_grid,
    without_range,
)


def check_forward(subject: Subject) -> None:
    """Shape, dtype, finiteness; the seam returns exactly the projection; jit agrees with eager; one compile a shape."""
    for dtype in (jnp.float32, jnp.bfloat16):
        x = subject.gaussian(dtype=dtype)
        ctx = subject.context(x)
        value = subject.compiled(x, ctx)
        assert value.shape == x.shape
        assert value.dtype == dtype
        assert bool(jnp.all(jnp.isfinite(value)))
    x = subject.gaussian()
    agree(subject, subject.value(x), subject.format.project(x, subject.context(x)).value)
    agree(subject, jax.jit(lambda x, ctx: project(subject.operand, x, ctx))(x, subject.context(x)), subject.value(x))
    before = subject.compiled._cache_size()
    subject.value(subject.gaussian(seed=1))
    assert subject.compiled._cache_size() == before


def check_zeros(subject: Subject) -> None:
    """A tensor of zeros, and a row of zeros among others, project to finite numbers."""
    x = subject.gaussian().at[0].set(0.0)
    assert bool(jnp.all(jnp.isfinite(subject.value(x))))
    zeros = subject.value(jnp.zeros_like(x))
    assert bool(jnp.all(jnp.abs(zeros) < 1e-30))


def check_not_finite(subject: Subject) -> None:
    """A NaN is never turned into a number: a diverged run must be seen to have diverged."""
    x = subject.gaussian().at[3, 5].set(100.0)  # kept by every sparsity
    ctx = subject.context(x)
    assert not bool(jnp.isfinite(subject.compiled(x.at[3, 5].set(jnp.nan), ctx)[3, 5]))


def check_equivariance(subject: Subject) -> None:
    """Powers of two factor out, exactly; so does the sign where the grid is symmetric."""
    x = subject.gaussian()
    ctx, scaled = subject.context(x), subject.context(x * 4.0)
    same_bits(subject.compiled(x * 4.0, scaled), subject.compiled(x, ctx) * 4.0)
    if subject.symmetric:
        np.testing.assert_array_equal(subject.compiled(-x, ctx), -subject.compiled(x, ctx))


@unless(never_again)
def check_repeats(subject: Subject) -> None:
    """Projecting again changes nothing, where the grid allows."""
    x = subject.gaussian()
    ctx = subject.context(x)
    once = subject.compiled(x, ctx)
    twice = subject.compiled(once, ctx)
    if subject.repeats == "exactly":
        np.testing.assert_array_equal(twice, once)
        return
    assert subject.repeats == "closely"
    if any_order(subject.format):
        agree(subject, twice, once)
    else:
        np.testing.assert_allclose(twice, once, rtol=1e-6)


def check_batches(subject: Subject) -> None:
    """vmap agrees with a loop, bit for bit; closely where a format says that its sums may be in any order."""
    x = jnp.stack([subject.gaussian(seed=seed) for seed in range(3)])
    contexts = [subject.context(each) for each in x]
    parts = [None if part[0] is None else jnp.stack(part) for part in map(list, zip(*contexts, strict=True))]
    stacked, axes = Context(*cast(Any, parts)), Context(*cast(Any, [None if part is None else 0 for part in parts]))
    together = jax.jit(jax.vmap(lambda x, ctx: subject.format.project(x, ctx).value, in_axes=(0, axes)))(x, stacked)
    for i, ctx in enumerate(contexts):
        agree(subject, together[i], subject.compiled(x[i], ctx))


@unless(one_device)
def check_sharding(subject: Subject) -> None:
    """Two devices agree with one, whichever axis is split: bit for bit, or as closely as a batch with a loop."""
    x = subject.gaussian()
    ctx = subject.context(x)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    for spec in (PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp")):
        split = jax.device_put(x, NamedSharding(mesh, spec))
        agree(subject, subject.compiled(split, ctx), subject.compiled(x, ctx))


@unless(one_device)
def check_mapped(subject: Subject) -> None:
    """Inside `jax.shard_map`, devices that hold rows give those rows; what is measured on the matrix is refused."""
    x = subject.gaussian()
    ctx = subject.context(x)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    specs = jax.tree.map(lambda leaf: rows if jnp.shape(leaf)[:1] == subject.shape[:1] else PartitionSpec(), ctx)
    project = partial(jax.shard_map, mesh=mesh, in_specs=(rows, specs), out_specs=rows)
    run = jax.jit(project(lambda x, ctx: subject.format.project(x, ctx).value))
    whole_matrix = granularity_of(subject.format) == "matrix"
    if whole_matrix and (any_order(subject.format) or not isinstance(subject.format, Stateful)):
        said = ""
        try:
            run(x, ctx)
        except UserError as error:
            said = str(error)
        assert "is measured on the whole tensor, and inside jax.shard_map" in said, "it is split, and nothing said so"
        return
    found = run(x, ctx)
    if not draws(subject.format):  # devices that draw alike for rows of their own
        same_bits(found, subject.compiled(x, ctx))


@unless(without_range)
def check_range(subject: Subject) -> None:
    """The largest float16 numbers project to numbers, and are packed as such: levels round up as well as down."""
    x = subject.gaussian(dtype=jnp.float16).at[:4].set(jnp.finfo(jnp.float16).max).at[5:].multiply(-1e4)
    x = jnp.clip(x, -65504, 65504)
    ctx = subject.context(x)
    value = subject.compiled(x, ctx)
    assert bool(jnp.all(jnp.isfinite(value)))
    if not_stored(subject) is None:
        same_bits(unpack(pack(subject.format, x, ctx)), value)


def check_gradient(subject: Subject) -> None:
    """The gradient through the seam is the cotangent under the estimator's mask, or its `pull`, and nothing else."""
    x = subject.gaussian()
    ctx = subject.context(x)
    cotangent = subject.gaussian(seed=7)
    estimator = subject.operand.backward()
    if isinstance(estimator, Pulls):
        expected = jax.jit(lambda x, g: estimator.pull(estimator.residuals(x, subject.format.project(x, ctx)), g))(
            x, cotangent
        )
    else:
        mask = jax.jit(lambda x, ctx: estimator(x, subject.format.project(x, ctx)))(x, ctx)
        expected = cotangent if mask is None else jnp.where(mask, cotangent, 0.0)
    pulled = jax.jit(lambda x, g: jax.vjp(lambda x: project(subject.operand, x, ctx), x)[1](g)[0])(x, cotangent)
    np.testing.assert_array_equal(pulled, expected)


@unless(whole)
def check_rows(subject: Subject) -> None:
    """A format of row granularity never lets a row see another; one of matrix granularity says so."""
    x = subject.gaussian()
    ctx = subject.context(x)
    changed = x.at[-1].set(subject.gaussian(seed=5)[-1] * 100.0)
    same_bits(subject.compiled(changed, ctx)[:-1], subject.compiled(x, ctx)[:-1])


@unless(not_stored)
def check_storage(subject: Subject) -> None:
    """The packed bytes are those that `bits` counts, and unpack to the projection bit for bit."""
    format = subject.format
    assert isinstance(format, Storable)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = subject.gaussian(dtype=dtype)
        ctx = subject.context(x)
        packed = pack(format, x, ctx)
        same_bits(unpack(packed), subject.compiled(x, ctx))
        bits = storage_bits(format, x.shape, dtype) * x.size
        fields = len(packed.fields)
        assert packed.nbytes == expected_bytes(format, x.shape, dtype)
        assert bits / 8 <= packed.nbytes <= bits / 8 * (1 + 1e-6) + fields + 1 / 8 * fields
    side = 1 << 14 if has_limit(format) else ROW  # the size that a format without a limit tells its bits of
    np.testing.assert_allclose(storage_bits(format, (side, side)), format.bits, rtol=1e-2, atol=3e-3)
    assert format.bits > 0


@unless(without_grid)
def check_levels(subject: Subject) -> None:
    """No group holds more distinct values than its codes can tell apart."""
    grid = getattr(subject.format, "grid", None)
    assert grid is not None
    group = getattr(subject.format, "group", WIDTH)
    x = subject.gaussian()
    values = subject.value(x)
    if isinstance(group, tuple):
        values, group = Groups(group).split(values).swapaxes(-3, -2), prod(group)
    values = np.asarray(values).reshape(-1, group if isinstance(group, int) else WIDTH)
    distinct = max(len(np.unique(row)) for row in values)
    assert distinct <= grid.codes
    assert distinct > min(grid.codes, group if isinstance(group, int) else WIDTH) / 8


def check_gmse(subject: Subject) -> None:
    """The stated error agrees with a plain measurement on fresh data, to five standard errors."""
    rows, width = 256, ROW
    told = subject.format
    stated = gmse_of_shape(told, (rows, width)) if isinstance(told, ErrorOfShape) else gmse(told, samples=width)
    x = np.random.default_rng(11).standard_normal((rows, width)).astype(np.float32)
    value = np.asarray(subject.value(jnp.asarray(x)), np.float64)
    errors = np.square(x - value).mean(axis=1)
    sure = errors.std() / rows**0.5 + stated.standard_error + 2e-3 * stated.value  # matrices of another size
    assert abs(errors.mean() - stated.value) <= 5 * sure
    assert stated.value > 0 or subject.format.bits >= 16
    if stated.value > 0 and width * log2(1 / stated.value) / 2 > 0:
        bits = storage_bits(told, (rows, width)) if not has_limit(told) and isinstance(told, Storable) else told.bits
        assert 4.0**-bits <= stated.value * (1 + 1e-9)


CHECKS = (
    check_forward,
    check_zeros,
    check_not_finite,
    check_equivariance,
    check_repeats,
    check_batches,
    check_sharding,
    check_mapped,
    check_range,
    check_gradient,
    check_rows,
    check_storage,
    check_levels,
    check_gmse,
)

ONE_PROGRAM = (check_zeros, check_not_finite, check_equivariance, check_repeats, check_rows, check_levels)
"""Those that run the projection of one shape and dtype, which they share: a tenth of a second for all of them."""
