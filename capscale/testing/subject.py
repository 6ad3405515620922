"""A format under test: the data it is given, what its kind promises, and why a contract says nothing of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from capscale.defaults import default_estimator
from capscale.estimators import Estimator
from capscale.formats.base import Context, Format, granularity_of
from capscale.formats.capabilities import any_order, initial_context
from capscale.formats.stages import stages_of
from capscale.formats.stated import PACKING, unstated
from capscale.formats.storage import Storable
from capscale.representation import Operand

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
    repeats: Literal["no", "closely", "exactly"] = "no"
    """Whether project(project(x)) == project(x): "exactly", "closely" or "no"."""

    @cached_property
    def operand(self) -> Operand:
        """The format with its estimator."""
        estimator = default_estimator(self.format) if self.estimator is None else self.estimator
        return Operand(self.format, estimator)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the smallest matrix of two blocks of rows, where the format has such, and else of 8 rows."""
        rows = block_rows(self.format)
        return (2 * rows if rows > 1 else ROWS, WIDTH)

    def gaussian(self, seed: int = 0, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """Rows that the format divides."""
        return gaussian(self.shape, seed, dtype)

    @cached_property
    def compiled(self) -> Any:
        """The projection as a compiled function of a tensor and a context."""
        return jax.jit(lambda x, ctx: self.format.project(x, ctx).value)

    def context(self, x: jax.Array) -> Context:
        """Learnable parameters, state and key as training starts with them."""
        return initial_context(self.format, x)

    def value(self, x: jax.Array) -> jax.Array:
        """The projection of `x`, compiled."""
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
    """Formats that no bytes are packed of."""
    if not isinstance(subject.format, Storable):
        return "it states no packed storage"
    return unstated(subject.format, PACKING)


def without_grid(subject: Subject) -> str | None:
    """Formats without levels of single values."""
    return "it has no grid whose levels could be counted" if getattr(subject.format, "grid", None) is None else None


def never_again(subject: Subject) -> str | None:
    """Projections that are not idempotent."""
    return "projected again, it is measured anew, and moves" if subject.repeats == "no" else None


def whole(subject: Subject) -> str | None:
    """Formats that share a number between rows."""
    return "it is measured on the whole matrix, and says so" if granularity_of(subject.format) != "row" else None


def one_device(subject: Subject) -> str | None:
    """Every format, where JAX has a single device: `--xla_force_host_platform_device_count=2` makes two of a CPU."""
    return "JAX has one device here" if jax.device_count() < 2 else None


def without_range(subject: Subject) -> str | None:
    """Formats whose arithmetic leaves the range of float16."""
    if stages_of(subject.format).rotates_between:
        return "its rotation, sqrt(block) times as large, has no float16 number"
    return None


def gaussian(shape: tuple[int, ...] = (ROWS, WIDTH), seed: int = 0, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Rows of unequal scale, so that formats with one scale too few or too many are told apart."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(x * 2.0 ** np.linspace(-2, 2, shape[-2])[:, None], dtype)


def agree(subject: Subject, a: jax.Array, b: jax.Array) -> None:
    """Equal bit for bit; to a few last bits of the largest where sums of the format may be in any order."""
    if not any_order(subject.format):
        same_bits(a, b)
        return
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    left, right = (np.asarray(each, np.float64) for each in (a, b))
    np.testing.assert_allclose(left, right, rtol=0, atol=16 * float(jnp.finfo(a.dtype).eps) * np.abs(right).max())


def same_bits(a: jax.Array, b: jax.Array) -> None:
    """Equal bit for bit, the sign of zero included."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    left, right = np.asarray(a), np.asarray(b)
    kind = np.uint16 if left.dtype.itemsize == 2 else np.uint32
    np.testing.assert_array_equal(left.view(kind), right.view(kind))
