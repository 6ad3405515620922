"""Gradients of a batch: micro-batch by micro-batch, and by devices that share one copy of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from capscale.formats.base import Context
from capscale.kernels.mesh import automatic_axes
from capscale.train.sharding import DATA, FSDP, gathered, mapped, scattered_mean, state_sharding

LossAndGradient = Callable[[Any, Array, Context], tuple[Array, Any]]
"""Mean loss of windows `(B, U)` and its gradient with respect to weights, from weights, windows and their context."""


def mean_of_parts(of_part: LossAndGradient, held: Any, window_BU: Array, ctx: Context, parts: int) -> tuple[Array, Any]:
    """Loss and gradient of a batch as the mean of those of its micro-batches, one after the other."""
    if parts == 1:
        return of_part(held, window_BU, ctx)

    def add(total: tuple[Array, Any], part: tuple[Array, Array]) -> tuple[tuple[Array, Any], None]:
        window_bU, number = part
        key = None if ctx.key is None else jax.random.fold_in(ctx.key, number)
        return jax.tree.map(jnp.add, total, of_part(held, window_bU, ctx._replace(key=key))), None

    nothing = (jnp.float32(0), jax.tree.map(jnp.zeros_like, held))
    total, _ = jax.lax.scan(add, nothing, (microbatches(window_BU, parts), jnp.arange(parts)))
    return jax.tree.map(lambda sum_: sum_ / parts, total)


def microbatches(window_BU: Array, parts: int) -> Array:
    """(parts, b, U): every parts-th row makes one, so that devices of consecutive rows hold as many of each."""
    return jnp.moveaxis(window_BU.reshape(-1, parts, window_BU.shape[1]), 1, 0)


def splits_weights() -> bool:
    """Whether devices of the context mesh share one copy of the parameters, and no `jax.shard_map` has taken them."""
    mesh, auto = automatic_axes()
    return FSDP in auto and mesh.shape[FSDP] > 1


def gathered_once(
    of_batch: LossAndGradient, held: Any, window_BU: Array, ctx: Context, dtype: DTypeLike
) -> tuple[Array, Any]:
    """Loss and gradient of a batch by devices that share weights: these are sent ahead of `of_batch`, once.

    Every device goes through its rows by itself; behind that gradients are summed over devices, in float32, and each
    keeps those of its part of the weights. XLA by itself would send both for every layer of every micro-batch.
    """
    mesh, _ = automatic_axes()
    specs = jax.tree.map(lambda sharding: sharding.spec, state_sharding(mesh, held))
    same, rows = PartitionSpec(), PartitionSpec((DATA, FSDP))

    def run(held: Any, window_bU: Array, ctx: Context) -> tuple[Array, Any]:
        loss, gradient = of_batch(gathered(held, specs, dtype), window_bU, ctx)
        return jax.lax.pmean(loss, (DATA, FSDP)), scattered_mean(gradient, specs)

    return mapped(run, (specs, rows, same), (same, specs))(held, window_BU, ctx)
