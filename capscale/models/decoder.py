"""Decoders of both families: embedding, scanned layers, final norm, head."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.formats.base import Context
from capscale.models.config import ModelConfig
from capscale.models.layers import NOISE, RMSNorm
from capscale.models.llama import LlamaBlock
from capscale.models.loss import cross_entropy, logits, mean_cross_entropy
from capscale.models.olmo2 import Olmo2Block
from capscale.representation import DENSE, Representation

_BLOCKS = {"llama": LlamaBlock, "olmo2": Olmo2Block}


class Decoder(nn.Module):
    """Token ids to logits or losses. Embeddings, norms and the head stay dense; every other matrix is compressed.

    With `remat`, the backward pass computes each layer anew from its input instead of keeping what is inside.
    """

    config: ModelConfig
    representation: Representation = DENSE
    remat: bool = False

    def setup(self) -> None:
        """Embedding, layers and head."""
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        shape = (cfg.vocabulary, cfg.width)
        self.embedding = self.param("embedding", init, shape, jnp.float32)
        block = _BLOCKS[cfg.family]
        # One compiled layer body; tiny stacks are unrolled because a loop costs more than the layers do.
        layers = nn.scan(
            nn.remat(block, prevent_cse=False) if self.remat else block,
            variable_axes={"params": 0},
            split_rngs={"params": True, NOISE: True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=cfg.layers,
            unroll=cfg.layers if cfg.layers <= 2 else 1,
        )
        self.layers = layers(cfg, self.representation)
        self.final_norm = RMSNorm(cfg.norm_epsilon)
        self.head = self.embedding if cfg.tied_embeddings else self.param("head", init, shape, jnp.float32)

    def features(self, tokens_BT: Array, ctx: Context) -> Array:
        """Inputs of the head, `(B, T, M)` in the compute dtype, for int token ids `(B, T)`."""
        x_BTM = jnp.take(self.embedding, tokens_BT, axis=0).astype(self.config.dtype)
        x_BTM, _ = self.layers(x_BTM, ctx)
        return self.final_norm(x_BTM)

    def __call__(self, tokens_BT: Array, ctx: Context) -> Array:
        """Logits `(B, T, V)` in fp32 for int token ids `(B, T)`."""
        return logits(self.features(tokens_BT, ctx), self.head, self.config.dtype)

    def losses(self, window_BU: Array, ctx: Context, at_once: int) -> Array:
        """Cross-entropy in nats of every target, `float32 (B, T)`.

        `window_BU` holds `T + 1` ids: inputs are the first T, targets the last T. The logits of `at_once` tokens of
        each sequence, a divisor of T, exist together.
        """
        x_BTM = self.features(window_BU[:, :-1], ctx)
        return cross_entropy(x_BTM, self.head, window_BU[:, 1:], self.config.dtype, at_once)

    def mean_loss(self, window_BU: Array, ctx: Context, at_once: int) -> Array:
        """Mean of `losses`, float32 scalar, to be differentiated: see `mean_cross_entropy`."""
        x_BTM = self.features(window_BU[:, :-1], ctx)
        return mean_cross_entropy(x_BTM, self.head, window_BU[:, 1:], self.config.dtype, at_once)
