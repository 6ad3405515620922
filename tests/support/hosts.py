"""One linear layer without bias in every host, as a function of its parameters: what conformance compares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from capscale.adapters import compress
from capscale.product import product
from capscale.representation import Representation

Layer = tuple[Any, Callable[[Any, jax.Array], jax.Array], Callable[[Any], jax.Array]]
"""Parameters, y of parameters and x, and the kernel (in, out) of a tree like the parameters."""


def linen(kernel: jax.Array, r: Representation) -> Layer:
    compressed = compress(nn.Dense(kernel.shape[1], use_bias=False), r, jnp.zeros((1, kernel.shape[0])))
    apply = lambda params, x: compressed.apply({"params": params}, x)  # noqa: E731
    return {"kernel": kernel}, apply, lambda params: params["kernel"]


def linen_general(kernel: jax.Array, r: Representation) -> Layer:
    """Inputs on two axes and outputs on two, as the projections of attention have them."""
    model = nn.DenseGeneral((4, kernel.shape[1] // 4), axis=(-2, -1), use_bias=False)
    compressed = compress(model, r, jnp.zeros((1, 4, kernel.shape[0] // 4)))

    def apply(params, x):
        y = compressed.apply({"params": params}, x.reshape(*x.shape[:-1], 4, -1))
        return y.reshape(*y.shape[:-2], -1)

    shaped = kernel.reshape(4, kernel.shape[0] // 4, 4, kernel.shape[1] // 4)
    return {"kernel": shaped}, apply, lambda params: params["kernel"].reshape(kernel.shape)


def of_nnx(kernel: jax.Array, r: Representation) -> Layer:
    model = nnx.Linear(*kernel.shape, use_bias=False, rngs=nnx.Rngs(0))
    model.kernel.set_value(kernel)
    graph, params, rest = nnx.split(compress(model, r), nnx.Param, ...)
    return params, lambda params, x: nnx.merge(graph, params, rest)(x), lambda params: params["kernel"][...]


def nnx_general(kernel: jax.Array, r: Representation) -> Layer:
    inside, outside = (4, kernel.shape[0] // 4), (4, kernel.shape[1] // 4)
    model = nnx.LinearGeneral(inside, outside, axis=(-2, -1), use_bias=False, rngs=nnx.Rngs(0))
    model.kernel.set_value(kernel.reshape(*inside, *outside))
    graph, params, rest = nnx.split(compress(model, r), nnx.Param, ...)

    def apply(params, x):
        y = nnx.merge(graph, params, rest)(x.reshape(*x.shape[:-1], *inside))
        return y.reshape(*y.shape[:-2], -1)

    return params, apply, lambda params: params["kernel"][...].reshape(kernel.shape)


def equinox(kernel: jax.Array, r: Representation) -> Layer:
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install 'capscale[equinox]'")
    layer = eqx.nn.Linear(*kernel.shape, use_bias=False, key=jax.random.key(0))
    compressed = compress(eqx.tree_at(lambda layer: layer.weight, layer, kernel.T), r)

    def apply(model, x):
        function = model
        for _ in x.shape[:-1]:
            function = jax.vmap(function)
        return function(x)

    return compressed, apply, lambda model: model.weight.T


def pytree(kernel: jax.Array, r: Representation) -> Layer:
    """Weights alone: a tree has no layers."""
    params = {"block": {"w": kernel.T}}
    compressed = compress(params, (("block/w", r, -1),))
    return params, lambda p, x: product(x, compressed.project(p)["block"]["w"].T), lambda p: p["block"]["w"].T


@dataclass(frozen=True)
class Host:
    """How a host makes the layer, and what it sees of it."""

    layer: Callable[[jax.Array, Representation], Layer]
    activations: bool = True
    by_vector: bool = False
    """Whether it is defined on one vector, so that batches are mapped over it."""


HOSTS = {
    "linen": Host(linen),
    "linen-general": Host(linen_general),
    "nnx": Host(of_nnx),
    "nnx-general": Host(nnx_general),
    "equinox": Host(equinox, by_vector=True),
    "pytree": Host(pytree, activations=False),
}
