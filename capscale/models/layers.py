"""Layers shared by the model families. Array axes: B batch, T tokens, M width, H heads, K head width, F hidden."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.formats.roles import Draws, Learns
from capscale.models.config import ModelConfig
from capscale.representation import Representation, linear

Initializer = Callable[..., Array]


NOISE = "formats"
"""Name of the random stream that formats of activations draw from."""


def initializers(config: ModelConfig) -> tuple[Initializer, Initializer]:
    """First weights: Gaussian, and smaller by sqrt(2 layers) for the matrices that add to the residual stream."""
    normal = nn.initializers.normal
    return normal(config.init_std), normal(config.init_std / (2 * config.layers) ** 0.5)


class Linear(nn.Module):
    """Bias-free linear layer whose operands are stored in `representation`.

    The fp32 master weight `kernel: (in, out)` may come projected, as `capscale.models.held.hold_weights` leaves it.
    Learned numbers of the activations' format are the parameter `activations_step`.
    """

    features: int
    representation: Representation
    kernel_init: Initializer
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, ctx: Context) -> Array:
        """`(..., in) -> (..., features)` in the compute dtype."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        x = x.astype(self.dtype)
        return linear(x, kernel, self.representation, ctx, self._activations_context(x, ctx))

    def _activations_context(self, x: Array, ctx: Context) -> Context:
        fmt = self.representation.activations.format
        if isinstance(fmt, Draws):
            ctx = ctx._replace(key=self.make_rng(NOISE))
        if isinstance(fmt, Learns) and fmt.learns:
            if fmt.learned_shape(x.shape):
                raise UserError(f"activations={fmt!r} would learn a number per token; use group='matrix'")
            ctx = ctx._replace(learned=self.param("activations_step", lambda _: fmt.initial_learned(x)))
        return ctx


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis with a learned gain, computed in fp32."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Same shape and dtype as `x`."""
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        inverse_rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return (x32 * inverse_rms * jnp.broadcast_to(gain, x.shape)).astype(x.dtype)


def rotary_embedding(x_BTHK: Array, theta: float) -> Array:
    """Rotary position embedding (RoPE, arXiv 2104.09864), pairing feature i with i + K/2.

    Feature pair i of token t is rotated by the angle `t * theta**(-2 i / K)`. K must be even.
    """
    T, K = x_BTHK.shape[1], x_BTHK.shape[3]
    frequency_k = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    angle_Tk = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency_k[None, :]
    cos_T1k, sin_T1k = jnp.cos(angle_Tk)[None, :, None, :], jnp.sin(angle_Tk)[None, :, None, :]
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos_T1k - second * sin_T1k, second * cos_T1k + first * sin_T1k], axis=-1)
    return rotated.astype(x_BTHK.dtype)


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions; all four projections are compressed.

    With a `norm_epsilon`, queries and keys are normalised over all heads together, ahead of the rotation (QK-norm as in
    OLMo2, arXiv 2501.00656).
    """

    heads: int
    rope_theta: float
    representation: Representation
    kernel_init: Initializer
    residual_init: Initializer
    dtype: DTypeLike
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, x_BTM: Array, ctx: Context) -> Array:
        """`(B, T, M) -> (B, T, M)`; token t sees tokens 0..t."""
        B, T, M = x_BTM.shape

        def project(name: str, normalised: bool) -> Array:
            y_BTM = Linear(M, self.representation, self.kernel_init, self.dtype, name=name)(x_BTM, ctx)
            if normalised and self.norm_epsilon is not None:
                y_BTM = RMSNorm(self.norm_epsilon, name=f"{name}_norm")(y_BTM)
            return y_BTM.reshape(B, T, self.heads, M // self.heads)

        q_BTHK = rotary_embedding(project("query", normalised=True), self.rope_theta)
        k_BTHK = rotary_embedding(project("key", normalised=True), self.rope_theta)
        v_BTHK = project("value", normalised=False)
        with jax.numpy_dtype_promotion("standard"):  # its bfloat16 scores are float32 by promotion
            mixed_BTHK = jax.nn.dot_product_attention(q_BTHK, k_BTHK, v_BTHK, is_causal=True)
        out = Linear(M, self.representation, self.residual_init, self.dtype, name="out")
        return out(mixed_BTHK.reshape(B, T, M), ctx)


class SwiGLU(nn.Module):
    """Gated feed-forward layer, `down(silu(gate(x)) * up(x))` (arXiv 2002.05202)."""

    hidden: int
    representation: Representation
    kernel_init: Initializer
    residual_init: Initializer
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTM: Array, ctx: Context) -> Array:
        """`(B, T, M) -> (B, T, M)`."""
        gate = Linear(self.hidden, self.representation, self.kernel_init, self.dtype, name="gate")
        up = Linear(self.hidden, self.representation, self.kernel_init, self.dtype, name="up")
        down = Linear(x_BTM.shape[-1], self.representation, self.residual_init, self.dtype, name="down")
        return down(jax.nn.silu(gate(x_BTM, ctx)) * up(x_BTM, ctx), ctx)


class ReLU2(nn.Module):
    """Feed-forward layer with squared ReLUs, `down(relu(up(x))^2)` (arXiv 2109.08668)."""

    hidden: int
    representation: Representation
    kernel_init: Initializer
    residual_init: Initializer
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTM: Array, ctx: Context) -> Array:
        """`(B, T, M) -> (B, T, M)`."""
        up = Linear(self.hidden, self.representation, self.kernel_init, self.dtype, name="up")
        down = Linear(x_BTM.shape[-1], self.representation, self.residual_init, self.dtype, name="down")
        return down(jnp.square(jax.nn.relu(up(x_BTM, ctx))), ctx)
