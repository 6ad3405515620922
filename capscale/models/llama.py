"""The Llama-style decoder of the paper (section 3 of its training set-up) in Flax Linen."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.models.layers import NOISE, Attention, RMSNorm, SwiGLU
from capscale.representation import DENSE, Representation


@dataclass(frozen=True)
class ModelConfig:
    """Shape and numerics of one decoder.

    The hidden width of the feed-forward layer is `8/3 * width` rounded up to `multiple_of`.
    """

    layers: int
    heads: int
    width: int
    vocabulary: int
    context: int
    multiple_of: int = 256
    tied_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    init_std: float = 0.02
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    def __post_init__(self):
        for field in ("layers", "heads", "width", "vocabulary", "context", "multiple_of"):
            if getattr(self, field) < 1:
                raise UserError(f"model {field}={getattr(self, field)} must be at least 1")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(
                f"width={self.width} over heads={self.heads} must give an even whole head width (rotary positions)"
            )

    @cached_property
    def hidden(self) -> int:
        """Feed-forward hidden width."""
        return -(-8 * self.width // (3 * self.multiple_of)) * self.multiple_of

    @cached_property
    def non_embedding_parameters(self) -> int:
        """N of the scaling law: every parameter but the embedding and the head; final norm included."""
        per_layer = 4 * self.width**2 + 3 * self.width * self.hidden + 2 * self.width
        return self.layers * per_layer + self.width


class Block(nn.Module):
    """One decoder layer with norms on the input of attention and feed-forward, in the form `nn.scan` wants."""

    config: ModelConfig
    representation: Representation

    @nn.compact
    def __call__(self, x_BTM: Array, ctx: Context) -> tuple[Array, None]:
        """`(B, T, M) -> (B, T, M)`, and nothing per layer."""
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        residual_init = nn.initializers.normal(cfg.init_std / (2 * cfg.layers) ** 0.5)
        dtype = jnp.dtype(cfg.dtype)
        attention = Attention(
            cfg.heads, cfg.rope_theta, self.representation, init, residual_init, dtype, name="attention"
        )
        mlp = SwiGLU(cfg.hidden, self.representation, init, residual_init, dtype, name="mlp")
        x_BTM = x_BTM + attention(RMSNorm(cfg.norm_epsilon, name="attention_norm")(x_BTM), ctx)
        x_BTM = x_BTM + mlp(RMSNorm(cfg.norm_epsilon, name="mlp_norm")(x_BTM), ctx)
        return x_BTM, None


class Llama(nn.Module):
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
            Block,
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
