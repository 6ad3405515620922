"""First parameters of a model."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from capscale.formats.base import Context
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.layers import NOISE
from capscale.models.projected import add_learned
from capscale.operands import DENSE_OPERAND
from capscale.representation import Representation


def initial_params(model: ModelConfig, representation: Representation, key: Array) -> Any:
    """Parameter tree of `Decoder(model, representation)`: drawn from `key`, and what its formats learn.

    A key gives the same weights in every format; formats add only their own learnable parameters.
    """
    tokens_BT = jnp.zeros((1, model.context), jnp.int32)
    plain = replace(representation, weights=DENSE_OPERAND)
    rngs = {"params": key, NOISE: jax.random.fold_in(key, 1)}
    params = Decoder(model, plain).init(rngs, tokens_BT, Context(jnp.float32(0)))["params"]
    return add_learned(params, representation)
