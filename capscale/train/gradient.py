"""Gradients of a batch: micro-batch by micro-batch, and by devices that share one copy of the parameters."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from capscale.coded import Coded
from capscale.formats.base import Context
from capscale.kernels.matmul.codes import Multiplicand
from capscale.kernels.mesh import automatic_axes
from capscale.models.projected import kernels_of
from capscale.representation import Representation, coded_weights, codes_of_weights, multiplied
from capscale.train.sharding import DATA, FSDP, gathered, mapped, scattered_mean, state_sharding

Codes = Mapping[str, Coded | Multiplicand]
"""Weights in codes, by path, that products read in place of values."""
LossAndGradient = Callable[[Any, Codes, Array, Context], tuple[Array, Any]]
"""Mean loss of windows `(B, U)` and its gradient with respect to weights, from weights, those of them that are in codes
too, windows and their context."""


def mean_of_parts(
    of_part: LossAndGradient, held: Any, coded: Codes, window_BU: Array, ctx: Context, *, parts: int
) -> tuple[Array, Any]:
    """Loss and gradient of a batch as the mean of those of its micro-batches, one after the other."""
    if parts == 1:
        return of_part(held, coded, window_BU, ctx)

    def add(total: tuple[Array, Any], part: tuple[Array, Array]) -> tuple[tuple[Array, Any], None]:
        window_bU, number = part
        key = None if ctx.key is None else jax.random.fold_in(ctx.key, number)
        return jax.tree.map(jnp.add, total, of_part(held, coded, window_bU, ctx._replace(key=key))), None

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


class Codable(NamedTuple):
    """Weights that devices may send to each other in codes.

    Attributes:
      kernels: by path, before they are projected.
      representations: of these.
      in_place: whether codes are sent in place of values; else beside them, where products read both.
      rows: that linear layers get of a micro-batch, on all devices together.
      ready: codes that are there already, where nothing is sent ahead of the products.
    """

    kernels: dict[str, Array]
    representations: Mapping[str, Representation]
    in_place: bool = False
    rows: int = 0
    ready: Codes = MappingProxyType({})


NOTHING = Codable({}, MappingProxyType({}))


class Sent(NamedTuple):
    """Dtypes of what devices send each other.

    Attributes:
      weights: dtype that matrices are multiplied in, and sent in.
      gradients: dtype that gradients of matrices are sent in.
    """

    weights: DTypeLike
    gradients: DTypeLike = "float32"


def gathered_once(
    of_batch: LossAndGradient,
    held: Any,
    window_BU: Array,
    ctx: Context,
    sent: Sent,
    *,
    codable: Codable = NOTHING,
) -> tuple[Array, Any]:
    """Loss and gradient of a batch by devices that share weights: these are sent ahead of `of_batch`, once.

    Every device goes through its rows by itself; behind that gradients are summed over devices, and each keeps those of
    its part of the weights. XLA by itself would send both for every layer of every micro-batch.

    A device writes its part of `codable` weights in codes, where their format has some and they are split along their
    outputs, a row of codes each. These are sent, and read in place of values, which no device has all of. Codes that
    products of codes read are sent beside values where values are.
    """
    mesh, _ = automatic_axes()
    specs = jax.tree.map(lambda sharding: sharding.spec, state_sharding(mesh, held))
    of_path = {path: spec for path, spec in kernels_of(specs).items() if len(spec) and spec[-1] == FSDP}
    kernels = {path: codable.kernels[path] for path in of_path if path in codable.kernels}
    same, rows = PartitionSpec(), PartitionSpec((DATA, FSDP))

    def run(held: Any, kernels: dict[str, Array], window_bU: Array, ctx: Context) -> tuple[Array, Any]:
        own = {
            path: coded_weights(w, codable.representations[path], ctx)
            for path, w in kernels.items()
            if codable.in_place
        }
        parts = {path: coded for path, coded in own.items() if coded is not None}
        whole = jax.tree.map(lambda part: jax.lax.all_gather(part, FSDP, axis=part.ndim - 2, tiled=True), parts)
        beside = {path: _multiplicand(w, path, codable, ctx) for path, w in kernels.items() if path not in parts}
        coded = whole | {path: codes for path, codes in beside.items() if codes is not None}
        loss, gradient = of_batch(gathered(held, specs, sent.weights, unread=whole), coded, window_bU, ctx)
        return jax.lax.pmean(loss, (DATA, FSDP)), scattered_mean(gradient, specs, sent.gradients)

    of_kernels = {path: of_path[path] for path in kernels}
    return mapped(run, (specs, of_kernels, rows, same), (same, specs))(held, kernels, window_BU, ctx)


def _multiplicand(w: Array, path: str, codable: Codable, ctx: Context) -> Multiplicand | None:
    """Codes of a kernel that products read, of all devices, from this device's outputs `w`; None where they do not."""
    representation, (mesh, _) = codable.representations[path], automatic_axes()
    by = multiplied(representation, w.shape[-2], codable.rows // mesh.size)
    if by is None:
        return None
    own = codes_of_weights(w, representation, by, ctx)
    return jax.tree.map(lambda part: jax.lax.all_gather(part, FSDP, axis=part.ndim - 1, tiled=True), own)
