"""Holds the kernels of a format, yours too, to the format itself: the kernel kit for whoever has a format at hand."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from capscale.defaults import default_estimator
from capscale.estimators import Estimator
from capscale.formats.base import Format
from capscale.formats.capabilities import initial_context
from capscale.fused import given_R1, spec_of
from capscale.kernels import compare, costs, testing
from capscale.kernels.aot import Unavailable
from capscale.kernels.project import Spec, Unsupported, reference
from capscale.kernels.project.mask import unpack_mask


def check_kernels(
    format: Format,
    estimator: Estimator | None = None,
    rotation: int | None = 128,
    tell: Callable[[str, str], None] = lambda name, outcome: None,
) -> dict[str, str]:
    """Runs every check of `capscale.kernels.testing` on the projection kernel of `format`, rotated forth and back.

    The first, "format", holds the kernel's reference to the format's own code, value and mask, bit for bit; the others
    hold kernels to that reference. "cost-v5e" and "cost-v6e" hold nothing: they tell what the forward kernel takes by
    its schedule, where libtpu was not loaded before; nor does "cost-h100": registers, spills and shared memory by
    ptxas, where it is installed. One to two minutes with libtpu, most of it compiling for TPUs.

    Args:
      format: what is to be projected onto.
      estimator: backward mask; the default one of the format's kind if not given.
      rotation: block of the Hadamard rotation in all checks but the first; None for none.
      tell: called with the name and the outcome of each check.

    Returns:
      Outcomes by name: "passed", a cost, or why this machine cannot tell.

    Raises:
      AssertionError: a kernel is wrong; the message begins with the name of the check, and says where first: the
        index, both numbers, what was projected there and its dtype.
      ValueError: the format has no kernel, with the reason.

    Example: `check_kernels(Scalar(Levels((-3.0, -1.0, 1.0, 3.0)), Absmax(), group=32))`.
    """
    of = {b: default_estimator(format, b is not None) if estimator is None else estimator for b in (None, rotation)}
    specs = [spec_of(format, of[block], block, block is not None) for block in (None, rotation)]
    plain, spec = specs
    if not isinstance(plain, Spec) or not isinstance(spec, Spec):
        raise ValueError(f"{format} has no kernel: {next(found for found in specs if isinstance(found, Unsupported))}")
    outcomes: dict[str, str] = {}
    first = {"format": lambda _: check_format(format, of[None], plain)}
    for name, check in {**first, **costs.costs(), **testing.checks()}.items():  # libtpu is to be asked as it loads
        try:
            outcomes[name] = check(spec) or "passed"
        except Unavailable as reason:
            outcomes[name] = str(reason)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        tell(name, outcomes[name])
    return outcomes


def check_format(format: Format, estimator: Estimator, spec: Spec) -> None:
    """The kernel's reference gives the format's own values, and the estimator's mask, bit for bit.

    What is not finite in one is not in the other: kernels make NaN of infinities.
    """
    for dtype in (jnp.float32, jnp.bfloat16):
        _check_format(format, estimator, spec, dtype)


def _check_format(format: Format, estimator: Estimator, spec: Spec, dtype: DTypeLike) -> None:
    width = testing.whole(spec, 256)
    x = testing.rows((8, width), dtype)
    ctx = initial_context(format, x)

    def by_format(x: Array) -> tuple[Array, Array | None]:
        projection = format.project(x, ctx)
        return projection.value, estimator(x.astype(jnp.float32), projection)

    found = jax.jit(lambda x: reference.project(spec, x, given_R1(format, spec, x, ctx)))(x)
    value, mask = jax.jit(by_format)(x)
    compare.equal(*(jnp.where(jnp.isfinite(v), v, jnp.nan) for v in (found.value_RK, value)), what="value", x=x)
    assert (found.mask_RW is None) == (mask is None), "one has a mask, the other none"
    if found.mask_RW is not None and mask is not None:
        compare.equal(unpack_mask(found.mask_RW, width), jnp.broadcast_to(mask, x.shape), "mask", x)
