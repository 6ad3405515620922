"""First parameters of a model."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from capscale.formats.base import Context
from capscale.formats.capabilities import learns
from capscale.models.assigned import Assigned, Held, mapped
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.layers import NOISE
from capscale.models.learned_steps import with_steps
from capscale.models.owned import add_learned
from capscale.operands import DENSE_OPERAND


def initial_params(model: ModelConfig, representation: Held, key: Array) -> Any:
    """Parameter tree of `Decoder(model, representation)`: drawn from `key`, and what its formats learn.

    A key gives the same weights in every format; formats add only their own learnable parameters.
    """
    tokens_BT = jnp.zeros((1, model.context), jnp.int32)
    plain = mapped(representation, lambda each: replace(each, weights=DENSE_OPERAND))
    rngs = {"params": key, NOISE: jax.random.fold_in(key, 1)}
    ctx = Context(jnp.float32(0))
    params: Any = Decoder(model, plain).init(rngs, tokens_BT, ctx)["params"]
    if isinstance(plain, Assigned) and any(learns(each.activations.format) for each in plain.every):
        streams = {NOISE: rngs[NOISE]}
        steps: Any = Decoder(model, plain).apply({"params": params}, tokens_BT, ctx, rngs=streams, method="first_steps")
        params = params | {"layers": with_steps(params["layers"], steps)}
    return add_learned(params, representation)
