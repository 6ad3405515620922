"""The contracts every format is held to, as functions of a format: a new format passes them from one table row."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from math import log2, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimators import Estimator
from capscale.formats.base import Context, Format
from capscale.formats.capabilities import Stateful, draws, initial_context
from capscale.formats.groups import Groups
from capscale.formats.packing import expected_bytes, pack, unpack
from capscale.formats.rotated import ThenRotated
from capscale.formats.stated import PACKING, unstated
from capscale.formats.storage import Storable, storage_bits
from capscale.gaussian_mse import gmse
from capscale.masks import Pulls
from capscale.representation import Operand, project

ROWS, WIDTH = 8, 256  # the smallest width that every group size of the catalog divides


def block_rows(format: Format) -> int:
    """Rows that a block of the format spans, or of one of its stages; 1 where none does."""
    parts = [format, *(getattr(format, name) for name in ("sparse", "rounding", "inner") if hasattr(format, name))]
    blocks = [getattr(part, name, None) for part in parts for name in ("group", "unit")]
    return max((block[0] for block in blocks if isinstance(block, tuple)), default=1)


@dataclass
class Subject:
    """A format under test, its compiled projection, and what its kind promises."""

    format: Format
    estimator: Estimator | None = None
    """None: the default of the format's kind."""
    symmetric: bool = True
    """project(-x) == -project(x) wherever x is not 0."""
    repeats: str = "no"
    """Whether project(project(x)) == project(x): "exactly", "closely" or "no"."""

    @cached_property
    def operand(self) -> Operand:
        estimator = default_estimator(self.format) if self.estimator is None else self.estimator
        return Operand(self.format, estimator)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the smallest matrix of two blocks of rows, where the format has such, and else of 8 rows."""
        rows = block_rows(self.format)
        return (2 * rows if rows > 1 else ROWS, WIDTH)

    def gaussian(self, seed: int = 0, dtype=jnp.float32) -> jax.Array:
        """Rows that the format divides."""
        return gaussian(self.shape, seed, dtype)

    @cached_property
    def compiled(self):
        return jax.jit(lambda x, ctx: self.format.project(x, ctx).value)

    def context(self, x: jax.Array) -> Context:
        return initial_context(self.format, x)

    def value(self, x: jax.Array) -> jax.Array:
        return self.compiled(x, self.context(x))


Check = Callable[[Subject], None]
Reason = Callable[[Subject], str | None]


def unless(reason: Reason) -> Callable[[Check], Check]:
    """A contract that says nothing of formats with a reason; `exempt` tells it."""

    def decorate(check: Check) -> Check:
        @wraps(check)
        def held(subject: Subject) -> None:
            if reason(subject) is None:
                check(subject)

        held.reason = reason  # pyright: ignore[reportAttributeAccessIssue]
        return held

    return decorate


def exempt(check: Check, subject: Subject) -> str | None:
    """Why a contract says nothing of a format, or None where the format is held to it."""
    reason = getattr(check, "reason", None)
    return None if reason is None else reason(subject)


def not_stored(subject: Subject) -> str | None:
    if not isinstance(subject.format, Storable):
        return "it states no packed storage"
    return unstated(subject.format, PACKING)


def without_grid(subject: Subject) -> str | None:
    return "it has no grid whose levels could be counted" if getattr(subject.format, "grid", None) is None else None


def never_again(subject: Subject) -> str | None:
    """Projections that are not idempotent."""
    return "projected again, it is measured anew, and moves" if subject.repeats == "no" else None


def whole(subject: Subject) -> str | None:
    return "it is measured on the whole matrix, and says so" if subject.format.granularity != "row" else None


def without_range(subject: Subject) -> str | None:
    if isinstance(subject.format, ThenRotated):
        return "its rotation, sqrt(block) times as large, has no float16 number"
    return None


def gaussian(shape: tuple[int, ...] = (ROWS, WIDTH), seed: int = 0, dtype=jnp.float32) -> jax.Array:
    """Rows of unequal scale, so that formats with one scale too few or too many are told apart."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(x * 2.0 ** np.linspace(-2, 2, shape[-2])[:, None], dtype)


def same_bits(a: jax.Array, b: jax.Array) -> None:
    """Equal bit for bit, the sign of zero included."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    left, right = np.asarray(a), np.asarray(b)
    kind = np.uint16 if left.dtype.itemsize == 2 else np.uint32
    np.testing.assert_array_equal(left.view(kind), right.view(kind))


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
    same_bits(subject.value(x), subject.format.project(x, subject.context(x)).value)
    same_bits(jax.jit(lambda x, ctx: project(subject.operand, x, ctx))(x, subject.context(x)), subject.value(x))
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
    else:
        assert subject.repeats == "closely"
        np.testing.assert_allclose(twice, once, rtol=1e-6)


def check_batches(subject: Subject) -> None:
    """vmap agrees with a loop, bit for bit."""
    x = jnp.stack([subject.gaussian(seed=seed) for seed in range(3)])
    contexts = [subject.context(each) for each in x]
    stacked = Context(
        *(None if part[0] is None else jnp.stack(part) for part in map(list, zip(*contexts, strict=True)))
    )
    axes = Context(*(None if part is None else 0 for part in stacked))
    together = jax.jit(jax.vmap(lambda x, ctx: subject.format.project(x, ctx).value, in_axes=(0, axes)))(x, stacked)
    for i, ctx in enumerate(contexts):
        same_bits(together[i], subject.compiled(x[i], ctx))


def check_sharding(subject: Subject) -> None:
    """Two devices agree with one, bit for bit, whichever axis is split."""
    x = subject.gaussian()
    ctx = subject.context(x)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    for spec in (PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp")):
        split = jax.device_put(x, NamedSharding(mesh, spec))
        same_bits(subject.compiled(split, ctx), subject.compiled(x, ctx))


def check_mapped(subject: Subject) -> None:
    """Inside `jax.shard_map`, devices that hold rows give those rows; what is measured on the matrix is refused."""
    x = subject.gaussian()
    ctx = subject.context(x)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    specs = jax.tree.map(lambda leaf: rows if jnp.shape(leaf)[:1] == subject.shape[:1] else PartitionSpec(), ctx)
    project = partial(jax.shard_map, mesh=mesh, in_specs=(rows, specs), out_specs=rows)
    run = jax.jit(project(lambda x, ctx: subject.format.project(x, ctx).value))
    if subject.format.granularity == "matrix" and not isinstance(subject.format, Stateful):
        with pytest.raises(UserError, match=r"is measured on the whole tensor, and inside jax\.shard_map"):
            run(x, ctx)
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
    for dtype in (jnp.float32, jnp.bfloat16):
        x = subject.gaussian(dtype=dtype)
        ctx = subject.context(x)
        packed = pack(subject.format, x, ctx)
        same_bits(unpack(packed), subject.compiled(x, ctx))
        bits = storage_bits(subject.format, x.shape, dtype) * x.size
        fields = len(packed.fields)
        assert packed.nbytes == expected_bytes(subject.format, x.shape, dtype)
        assert bits / 8 <= packed.nbytes <= bits / 8 * (1 + 1e-6) + fields + 1 / 8 * fields
    large = (1 << 14, 1 << 14)
    np.testing.assert_allclose(storage_bits(subject.format, large), subject.format.bits, rtol=1e-2, atol=3e-3)
    assert subject.format.bits > 0


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
    rows, width = 256, 1024
    stated = gmse(subject.format, samples=width)
    x = np.random.default_rng(11).standard_normal((rows, width)).astype(np.float32)
    value = np.asarray(subject.value(jnp.asarray(x)), np.float64)
    errors = np.square(x - value).mean(axis=1)
    sure = errors.std() / rows**0.5 + stated.standard_error + 2e-3 * stated.value  # matrices of another size
    assert abs(errors.mean() - stated.value) <= 5 * sure
    assert stated.value > 0 or subject.format.bits >= 16
    if stated.value > 0 and width * log2(1 / stated.value) / 2 > 0:
        assert 4.0**-subject.format.bits <= stated.value * (1 + 1e-9)


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
