"""Layers shared by the model families. Array axes: B batch, T tokens, M width, H heads, K head width, F hidden."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.formats.capabilities import HasLearnedScale, draws, learns
from capscale.kernels.attention import causal_attention
from capscale.kernels.project.ahead import Ahead
from capscale.kernels.project.gated import Gated, gated, gated_by
from capscale.kernels.project.norm import Normed
from capscale.models.assigned import Block, representation_of
from capscale.models.config import ModelConfig, Projection
from capscale.models.heads import side_by_side
from capscale.models.rotary import rotary_embedding
from capscale.parametrizations import Parametrization, Shape
from capscale.representation import (
    ProjectedActivations,
    ProjectedAhead,
    ProjectedWeight,
    Representation,
    linear,
    project_ahead_once,
    project_cached,
    project_once,
)

NOISE = "formats"
"""Name of the random stream that formats of activations draw from, and those of gradients."""


class Gaussian(NamedTuple):
    """First weights: Gaussian, of mean 0 and deviation `std`."""

    std: float

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """Weights of this shape."""
        return nn.initializers.normal(self.std)(key, shape, dtype)


def initializers(config: ModelConfig) -> tuple[Gaussian, Gaussian]:
    """First weights: Gaussian, and smaller by sqrt(2 layers) for the matrices that add to the residual stream."""
    return Gaussian(config.init_std), Gaussian(config.init_std / (2 * config.layers) ** 0.5)


class Linear(nn.Module):
    """Linear layer whose operands are stored in `representation`; a bias, where it has one, stays dense.

    The fp32 master weight `kernel: (in, out)` may come projected, by `capscale.models.projected.project_params`. Of a
    parametrization `kernel` holds the stored arrays by their names, or comes as the matrix that they make.
    Learned numbers of the activations' format are the parameter `activations_step`.
    """

    features: int
    representation: Representation
    kernel_init: Gaussian
    dtype: DTypeLike
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array | Gated | ProjectedActivations, ctx: Context) -> Array:
        """`(..., in) -> (..., features)` in the compute dtype."""
        width = (x.value if isinstance(x, ProjectedActivations) else x).shape[-1]
        held, shape = self.representation.parametrization, (width, self.features)
        kernel: Any = (
            self.param("kernel", self.kernel_init, shape, jnp.float32) if held is None else self._made(held, shape)
        )
        y = self._multiplied(x, kernel, ctx)
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)

    def _multiplied(self, x: Array | Gated | ProjectedActivations, kernel: Any, ctx: Context) -> Array:
        """The product; the backward pass of one that reads a gated product as it is takes that anew."""
        if isinstance(x, Gated) and self.representation.activations.is_dense:

            def of_gated(x: Gated, kernel: Any, key: Array | None) -> Array:
                return linear(gated(*x), kernel, self.representation, ctx, ctx, gradients_key=key)

            return jax.checkpoint(of_gated, prevent_cse=False)(x, kernel, self._gradients_key())
        if isinstance(x, Gated):
            ahead = projected_ahead(x, self.representation, self.dtype)
            x = x.value() if ahead is None else ahead.activations
        own = ctx
        if not isinstance(x, ProjectedActivations):
            x = x.astype(self.dtype)
            own = self._activations_context(x, ctx)
        return linear(x, kernel, self.representation, ctx, own, gradients_key=self._gradients_key())

    def _made(self, held: Parametrization, shape: Shape) -> ProjectedWeight:
        """The matrix that stored numbers make, unless it came so."""
        if self.has_variable("params", "kernel"):
            stored: Any = self.get_variable("params", "kernel")
        else:
            stored = self.param("kernel", lambda key: held.init(key, shape, self.kernel_init.std))
        return stored if isinstance(stored, ProjectedWeight) else ProjectedWeight(held.value(stored, shape))

    def _gradients_key(self) -> Array | None:
        """Key of what the backward products of this layer draw at this step."""
        draws_there = self.representation.gradients.draws and self.has_rng(NOISE)
        return self.make_rng(NOISE) if draws_there else None

    def _activations_context(self, x: Array, ctx: Context) -> Context:
        fmt = self.representation.activations.format
        if draws(fmt):
            ctx = ctx._replace(key=self.make_rng(NOISE))
        if isinstance(fmt, HasLearnedScale) and fmt.learns:
            if fmt.learned_shape(x.shape):
                raise UserError(f"activations={fmt!r} would learn a number per token; use group='matrix'")
            ctx = ctx._replace(learned=self.param("activations_step", lambda _: fmt.initial_learned(x)))
        return ctx


def shared_input(
    x: Array, representation: Representation, dtype: DTypeLike, ctx: Context
) -> Array | ProjectedActivations:
    """Input of several `Linear` layers, projected once for all of them.

    As it is where activations are dense, and where every layer projects in a way of its own: with a learned step of
    its own, or noise of its own.
    """
    fmt = representation.activations.format
    if representation.activations.is_dense or learns(fmt) or draws(fmt):
        return x
    return project_once(x.astype(dtype), representation, ctx)


class Inputs(NamedTuple):
    """Inputs of layers by their representation, and the rows `x` (..., K) that a residual connection adds to.

    `x`: those that came, ahead of their norm where that was not taken yet. Their gradient is added to that of the norm
    by the kernel that writes it, where there is one.
    """

    by: dict[Representation, Array | ProjectedActivations]
    x: Array


def shared_inputs(x: Array | Normed, layers: Iterable[Representation], dtype: DTypeLike, ctx: Context) -> Inputs:
    """`shared_input` of layers that are not all held alike.

    Rows whose norm is not taken yet are normalised by the kernels that project them, where there are such kernels for
    all of the layers.
    """
    held = dict.fromkeys(layers)
    if isinstance(x, Normed):
        found, normed = dict[Representation, Array | ProjectedActivations](), x
        for each in held:
            ahead = projected_ahead(normed, each, dtype)
            if ahead is None:
                break
            assert ahead.x is not None
            found[each], normed = ahead.activations, normed._replace(x=ahead.x)
        else:
            return Inputs(found, normed.x)
    rows, before = (x.value(), x.x) if isinstance(x, Normed) else (x, x)
    return Inputs({each: shared_input(rows, each, dtype, ctx) for each in held}, before)


def projected_ahead(x: Ahead, representation: Representation, dtype: DTypeLike) -> ProjectedAhead | None:
    """Rows that are not computed yet, projected by the kernel that computes them first; None where none does."""
    fmt, held = representation.activations.format, x.operands[0].dtype
    return None if learns(fmt) or draws(fmt) or held != dtype else project_ahead_once(x, representation)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis with a learned gain, computed in fp32."""

    epsilon: float

    def __call__(self, x: Array) -> Array:
        """Same shape and dtype as `x`."""
        return self.ahead(x).value()

    @nn.compact
    def ahead(self, x: Array) -> Normed:
        """The same for `shared_inputs`, to be taken there or by the kernels that project."""
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return Normed(x, gain, self.epsilon)


class Attention(nn.Module):
    """Causal self-attention with rotary positions; all four projections are compressed.

    A key and value head serves `heads / kv_heads` queries. Queries and keys may be normalised ahead of the rotation,
    over all heads together (as in OLMo2, arXiv 2501.00656) or each head by itself (as in Qwen3, arXiv 2505.09388).
    """

    config: ModelConfig
    representation: Representation | Block
    kernel_init: Gaussian
    residual_init: Gaussian
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTM: Array | Normed, ctx: Context) -> Array:
        """`(B, T, M) -> (B, T, M)`; token t sees tokens 0..t.

        Of rows whose norm is not taken yet, their sum with that: the residual connection.
        """
        cfg = self.config
        B, T, M = x_BTM.shape
        of = partial(representation_of, self.representation)
        inputs = shared_inputs(x_BTM, (of("query"), of("key"), of("value")), self.dtype, ctx)

        def layer(name: Projection, features: int, init: Gaussian) -> Linear:
            return Linear(features, of(name), init, self.dtype, name in cfg.biases, name=name)

        def heads(name: Projection, count: int, normalised: bool) -> Array:
            y = layer(name, count * cfg.features_per_head, self.kernel_init)(inputs.by[of(name)], ctx)
            per_head = cfg.normalised == "per-head"
            norm = RMSNorm(cfg.norm_epsilon, name=f"{name}_norm") if normalised else None
            if norm is not None and not per_head:
                y = norm(y)
            y_BTHK = y.reshape(B, T, count, cfg.features_per_head)
            return norm(y_BTHK) if norm is not None and per_head else y_BTHK

        normalised = cfg.normalised != "none"
        q_BTHK = rotary_embedding(heads("query", cfg.heads, normalised), cfg.rope_theta, cfg.rope_scaling)
        k_BTHK = rotary_embedding(heads("key", cfg.keys_and_values, normalised), cfg.rope_theta, cfg.rope_scaling)
        v_BTHK = heads("value", cfg.keys_and_values, normalised=False)
        k_BTHK, v_BTHK = self._cached(k_BTHK, "keys", ctx), self._cached(v_BTHK, "values", ctx)
        mixed_BTHK = causal_attention(q_BTHK, k_BTHK, v_BTHK)
        rows = side_by_side(mixed_BTHK, by_kernel=not of("out").activations.is_dense)
        y_BTM = layer("out", M, self.residual_init)(rows, ctx)
        return inputs.x + y_BTM if isinstance(x_BTM, Normed) else y_BTM

    def _cached(self, x_BTHK: Array, side: Literal["keys", "values"], ctx: Context) -> Array:
        """Keys or values as a cache would hold them: as the layer says that makes them."""
        held = representation_of(self.representation, "key" if side == "keys" else "value")
        if draws(getattr(held, side).format):
            ctx = ctx._replace(key=self.make_rng(NOISE))
        return project_cached(x_BTHK, held, side, ctx)


class FeedForward(nn.Module):
    """Feed-forward layer: `down(silu(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202) or `down(relu(up(x))^2)`
    (arXiv 2109.08668)."""

    config: ModelConfig
    representation: Representation | Block
    kernel_init: Gaussian
    residual_init: Gaussian
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_BTM: Array | Normed, ctx: Context) -> Array:
        """`(B, T, M) -> (B, T, M)`; of rows whose norm is not taken yet, their sum with that."""
        cfg, of = self.config, partial(representation_of, self.representation)
        normed = isinstance(x_BTM, Normed)

        def layer(name: Projection, features: int, init: Gaussian) -> Linear:
            return Linear(features, of(name), init, self.dtype, name in cfg.biases, name=name)

        up = layer("up", cfg.hidden, self.kernel_init)
        if cfg.gated:
            gate = layer("gate", cfg.hidden, self.kernel_init)
            inputs = shared_inputs(x_BTM, (of("gate"), of("up")), self.dtype, ctx)
            past = inputs.x
            y = gated_by(gate(inputs.by[of("gate")], ctx), lambda: up(inputs.by[of("up")], ctx))
        else:
            past, x = (x_BTM.x, x_BTM.value()) if isinstance(x_BTM, Normed) else (x_BTM, x_BTM)
            y = jnp.square(jax.nn.relu(up(x, ctx)))
        y_BTM = layer("down", x_BTM.shape[-1], self.residual_init)(y, ctx)
        return past + y_BTM if normed else y_BTM
