"""Decoders of both families: embedding, scanned layers, final norm, head."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.formats.base import Context
from capscale.models.config import ModelConfig
from capscale.models.layers import NOISE, RMSNorm
from capscale.models.llama import LlamaBlock
from capscale.models.olmo2 import Olmo2Block
from capscale.representation import DENSE, Representation

_BLOCKS = {"llama": LlamaBlock, "olmo2": Olmo2Block}


class Decoder(nn.Module):
    """Token ids to logits. Embeddings, norms and the head stay dense; every other matrix is compressed."""

    config: ModelConfig
    representation: Representation = DENSE

    @nn.compact
    def __call__(self, tokens_BT: Array, ctx: Context) -> Array:
        """Logits `(B, T, V)` in fp32 for int token ids `(B, T)`."""
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        embedding_VM = self.param("embedding", init, (cfg.vocabulary, cfg.width), jnp.float32)
        x_BTM = jnp.take(embedding_VM, tokens_BT, axis=0).astype(cfg.dtype)
        # One compiled layer body; tiny stacks are unrolled because a loop costs more than the layers do.
        layers = nn.scan(
            _BLOCKS[cfg.family],
            variable_axes={"params": 0},
            split_rngs={"params": True, NOISE: True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=cfg.layers,
            unroll=cfg.layers if cfg.layers <= 2 else 1,
        )
        x_BTM, _ = layers(cfg, self.representation, name="layers")(x_BTM, ctx)
        x_BTM = RMSNorm(cfg.norm_epsilon, name="final_norm")(x_BTM)
        head_VM = embedding_VM if cfg.tied_embeddings else self.param("head", init, embedding_VM.shape, jnp.float32)
        return jnp.einsum("BTM,VM->BTV", x_BTM, head_VM.astype(cfg.dtype), preferred_element_type=jnp.float32)
