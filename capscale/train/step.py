"""The compiled part of training: one step, a chunk of steps, an evaluation."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from capscale.formats.base import Context
from capscale.models.held import hold_weights
from capscale.models.llama import Llama, ModelConfig
from capscale.representation import DENSE, Representation
from capscale.train.optimizer import gradient_transform, rate_at
from capscale.train.run import Optimizer, Run


class TrainState(NamedTuple):
    """All that a resumed run needs, and all that a checkpoint holds."""

    params: Any
    moments: optax.OptState
    step: Array
    """Optimizer steps done, int32 scalar."""
    key: Array
    """PRNG key data of the run, uint32: noise at step t draws from it folded with t."""


class Pace(NamedTuple):
    """What may differ between runs that share one compiled program; float32 and int32 scalars."""

    learning_rate: Array
    steps: Array


@dataclass(frozen=True)
class Program:
    """What a compiled train step depends on. Runs with equal programs share one compilation."""

    model: ModelConfig
    representation: Representation
    optimizer: Optimizer
    batch: int

    @classmethod
    def of(cls, run: Run) -> "Program":
        """The program of a run: its learning rate, length and seed are data, not code."""
        return cls(run.model, run.representation, dataclasses.replace(run.optimizer, learning_rate=1.0), run.batch)

    @property
    def module(self) -> Llama:
        """The Flax module."""
        return Llama(self.model, self.representation)


def initial_state(program: Program, seed: Array) -> TrainState:
    """State before the first step; `seed` is an int32 scalar, so that seeds can be mapped over."""
    init_key, noise_key = jax.random.split(jax.random.key(seed))
    tokens_BT = jnp.zeros((1, program.model.context), jnp.int32)
    params = Llama(program.model, DENSE).init(init_key, tokens_BT, Context(jnp.float32(0)))["params"]
    return TrainState(
        params=params,
        moments=gradient_transform(program.optimizer).init(params),
        step=jnp.int32(0),
        key=jax.random.key_data(noise_key),
    )


def token_losses(program: Program, held: Any, window_BU: Array, ctx: Context) -> Array:
    """Cross-entropy in nats of every target, `float32 (B, T)`, under held weights.

    `window_BU` holds `T + 1` symbols: inputs are the first T, targets the last T.
    """
    logits_BTV: Any = program.module.apply({"params": held}, window_BU[:, :-1], ctx)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BTV, window_BU[:, 1:])


def train_step(
    program: Program, state: TrainState, window_BU: Array, pace: Pace
) -> tuple[TrainState, dict[str, Array]]:
    """One AdamW step on one batch; metrics are the batch loss in nats per token and the gradient norm."""
    # Midpoint of the step: neither the first step nor the last has a learning rate of zero.
    progress = (state.step.astype(jnp.float32) + 0.5) / pace.steps.astype(jnp.float32)
    ctx = Context(progress, jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))

    def mean_loss(params: Any) -> Array:
        held = hold_weights(params, program.representation, ctx)
        return token_losses(program, held, window_BU, ctx).mean()

    loss, gradient = jax.value_and_grad(mean_loss)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 step count with floats
        direction, moments = gradient_transform(program.optimizer).update(gradient, state.moments, state.params)
    rate = pace.learning_rate * rate_at(program.optimizer, progress)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
    return TrainState(params, moments, state.step + 1, state.key), metrics


def train_chunk(  # noqa: PLR0917 mapped over by position
    program: Program,
    state: TrainState,
    symbols: Array,
    first_SB: Array,
    count: Array,
    pace: Pace,
) -> tuple[TrainState, dict[str, Array]]:
    """`count <= S` steps in one program, hundreds at a time so that Python is out of the way of tiny models.

    Args:
      program: static.
      state: state before the chunk.
      symbols: the whole text on the device, `(n,)` of an integer type.
      first_SB: first symbol of every window of every step, `int32 (S, B)`; rows from `count` on are not read.
      count: steps to do, int32 scalar: chunks of any length share one compilation.
      pace: the run's own numbers.

    Returns:
      The state after the chunk and metrics, each `float32 (S,)`, NaN from `count` on.
    """
    offset_U = jnp.arange(program.model.context + 1, dtype=jnp.int32)

    def body(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
        state, history = carry
        window_BU = symbols[first_SB[i][:, None] + offset_U[None, :]].astype(jnp.int32)
        state, metrics = train_step(program, state, window_BU, pace)
        return state, {name: history[name].at[i].set(value) for name, value in metrics.items()}

    history = {name: jnp.full(first_SB.shape[0], jnp.nan, jnp.float32) for name in ("loss", "grad_norm")}
    return jax.lax.fori_loop(jnp.int32(0), count, body, (state, history))


def evaluate_chunk(program: Program, state: TrainState, symbols: Array, first_SB: Array) -> Array:
    """Mean loss of every window in nats per token, `float32 (S, B)`, with the formats as at the end of training."""
    offset_U = jnp.arange(program.model.context + 1, dtype=jnp.int32)
    ctx = Context(jnp.float32(1), jax.random.wrap_key_data(state.key))
    held = hold_weights(state.params, program.representation, ctx)

    def losses_B(first_B: Array) -> Array:
        window_BU = symbols[first_B[:, None] + offset_U[None, :]].astype(jnp.int32)
        return token_losses(program, held, window_BU, ctx).mean(axis=-1)

    return jax.lax.map(losses_B, first_SB)
