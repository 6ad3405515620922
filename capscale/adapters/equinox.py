"""Equinox models: a copy whose `eqx.nn.Linear` layers are `Linear` of this module, with the same fields and more.

Equinox weights are (out, in): the last axis is contracted.
"""

import zlib
from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from capscale.adapters.pytree import path_name
from capscale.contraction import Contraction, dot_general, refuse
from capscale.coverage import Coverage, Found, cover
from capscale.errors import UserError
from capscale.formats.capabilities import draws, learns
from capscale.policy import Policy
from capscale.representation import ProjectedWeight, Representation, weight_rows


class Linear(eqx.nn.Linear):
    """`eqx.nn.Linear` with compressed weights and inputs.

    Attributes:
      representation: of weights and inputs.
      path: where it stands in the model.
      weights_step: numbers that the format of the weights learns: a field to train like the weights; None without.
      share: share of training done, set by `with_context`.
      seed: key of its formats, set by `with_context`.
    """

    representation: Representation = eqx.field(static=True)
    path: str = eqx.field(static=True)
    weights_step: Array | None
    share: Array | None
    seed: Array | None

    def __init__(self, linear: eqx.nn.Linear, representation: Representation, path: str):
        for name in ("weight", "bias", "in_features", "out_features", "use_bias"):
            setattr(self, name, getattr(linear, name))
        self.representation, self.path = representation, path
        self.share = self.seed = self.weights_step = None
        if learns(representation.weights.format):
            self.weights_step = _first_step(linear.weight, representation)

    @property
    def remedy(self) -> str:
        """How to pass them."""
        return "capscale.adapters.equinox.with_context(model, progress=..., key=...) inside the loss"

    def progress(self) -> Array | None:
        """Value that `with_context` has set."""
        return self.share

    def key(self) -> Array | None:
        """Value that `with_context` has set."""
        return self.seed

    def learned(self, name: str, start: Callable[[], Array]) -> Array:
        """The field of that name."""
        return getattr(self, name)

    def __call__(self, x: Array, *, key: Array | None = None) -> Array:
        """`weight @ x + bias` of one vector, as `eqx.nn.Linear`; `key` is ignored."""
        if self.in_features == "scalar":
            x = jnp.broadcast_to(x, (1,))
        masters = self.weight.value if isinstance(self.weight, ProjectedWeight) else self.weight
        x = x.astype(jnp.result_type(x, masters))
        y = dot_general(x, self.weight, (((0,), (1,)), ((), ())), self.representation, self)
        if self.bias is not None:
            y = y + self.bias
        return jnp.squeeze(y) if self.out_features == "scalar" else y


def compress(model: eqx.Module, policy: Policy) -> eqx.Module:
    """A copy of an Equinox model under a policy, by the path of the weights, `layers/0/weight`.

    Raises:
      UserError: see `capscale.coverage.cover`; formats that keep a state; activations that learn or draw.
    """
    compressed = describe(model, policy).compressed

    def replaced(path: tuple[Any, ...], node: Any) -> Any:
        name = _weight(path)
        representation = compressed[name].representation if type(node) is eqx.nn.Linear and name in compressed else None
        return node if representation is None else Linear(node, representation, name)

    return jax.tree_util.tree_map_with_path(replaced, model, is_leaf=_is_linear)


def describe(model: eqx.Module, policy: Policy) -> Coverage:
    """Coverage of every array of the model by `policy`."""
    found = []
    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_known):
        if type(node) is eqx.nn.Linear:
            weight = cast(Array, node.weight)
            stacked = tuple(range(weight.ndim - 2))
            found.append(Found(_weight(path), tuple(weight.shape), Contraction(-1, stacked)))
            others = {"bias": node.bias}
        elif _is_known(node):
            others = {path_name(inner): leaf for inner, leaf in jax.tree_util.tree_leaves_with_path(node)}
        elif eqx.is_inexact_array(node):
            vector = node.ndim < 2
            why = "no factor of a product" if vector else "of no known layer"
            found.append(Found(path_name(path), tuple(node.shape), None, why, product=not vector))
            continue
        else:
            continue
        why = "looked up, not multiplied" if isinstance(node, eqx.nn.Embedding) else "no factor of a product"
        for name, leaf in others.items():
            if eqx.is_inexact_array(leaf):
                found.append(
                    Found(
                        "/".join([path_name(path), name]).lstrip("/"), cast(Array, leaf).shape, None, why, product=False
                    )
                )
    return cover(found, policy, _refuse)


def with_context(model: eqx.Module, *, progress: Array | float | None = None, key: Array | None = None) -> eqx.Module:
    """The model with the share of training done and a key in every compressed layer.

    Call it inside the loss, so that neither is taken for a parameter. Each layer draws from a key of its own.
    """

    def at(node: Any) -> Any:
        if not isinstance(node, Linear):
            return node
        weight = cast(Array, node.weight)
        stack = weight.shape[:-2]
        share = None if progress is None else jnp.broadcast_to(jnp.asarray(progress, jnp.float32), stack)
        own = None if key is None else jax.random.fold_in(key, zlib.crc32(node.path.encode()))
        seed = jax.random.split(own, stack) if own is not None and stack else own
        return eqx.tree_at(lambda node: (node.share, node.seed), node, (share, seed), is_leaf=lambda leaf: leaf is None)

    return jax.tree.map(at, model, is_leaf=lambda node: isinstance(node, Linear))


def _refuse(found: Found, representation: Representation) -> None:
    refuse(found.path, representation)
    fmt = representation.activations.format
    if learns(fmt) or draws(fmt):
        raise UserError(
            f"{found.path}: activations={fmt!r} learn or draw for a batch, and an Equinox layer sees one vector, the "
            "same for all under vmap; use a format without, such as absmax-int8"
        )


def _is_linear(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear)


def _is_known(node: Any) -> bool:
    known = eqx.nn.Embedding, eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm
    return type(node) is eqx.nn.Linear or isinstance(node, known)


def _weight(path: tuple[Any, ...]) -> str:
    return "/".join(part for part in (path_name(path), "weight") if part)


def _first_step(weight: Array, representation: Representation) -> Array:
    fmt = representation.weights.format

    def start(w: Array) -> Array:
        matrix = Contraction(-1).matrix(w)
        return fmt.initial_learned(weight_rows(matrix, representation))  # pyright: ignore[reportAttributeAccessIssue]

    for _ in weight.shape[:-2]:
        start = jax.vmap(start)
    return start(weight)
