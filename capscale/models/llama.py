"""The Llama-style decoder layer of the paper (section 3 of its training set-up) in Flax Linen."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.formats.base import Context
from capscale.models.assigned import Block
from capscale.models.config import ModelConfig
from capscale.models.layers import Attention, FeedForward, RMSNorm, initializers
from capscale.representation import Representation


class LlamaBlock(nn.Module):
    """One layer with norms on the input of attention and feed-forward, in the form `nn.scan` wants."""

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
        x_BTM = attention(RMSNorm(cfg.norm_epsilon, name="attention_norm").ahead(x_BTM), ctx)
        x_BTM = mlp(RMSNorm(cfg.norm_epsilon, name="mlp_norm").ahead(x_BTM), ctx)
        return x_BTM, None
