"""The OLMo2-style decoder layer (arXiv 2501.00656, section 2) in Flax Linen."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.formats.base import Context
from capscale.models.assigned import Block
from capscale.models.config import ModelConfig
from capscale.models.layers import Attention, FeedForward, RMSNorm, initializers
from capscale.representation import Representation


class Olmo2Block(nn.Module):
    """One layer with norms on the output of attention and feed-forward, and on queries and keys."""

    config: ModelConfig
    representation: Representation | Block

    @nn.compact
    def __call__(self, x_BTM: Array, ctx: Context) -> tuple[Array, None]:
        """`(B, T, M) -> (B, T, M)`, and nothing per layer."""
        cfg = self.config
        init, residual_init = initializers(cfg)
        dtype = jnp.dtype(cfg.dtype)
        attention = Attention(cfg, self.representation, init, residual_init, dtype, name="attention")
        mlp = FeedForward(cfg, self.representation, init, residual_init, dtype, name="mlp")
        x_BTM = x_BTM + RMSNorm(cfg.norm_epsilon, name="attention_norm")(attention(x_BTM, ctx))
        x_BTM = x_BTM + RMSNorm(cfg.norm_epsilon, name="mlp_norm")(mlp(x_BTM, ctx))
        return x_BTM, None
