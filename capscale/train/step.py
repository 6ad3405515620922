"""The compiled part of training: one step, a chunk of steps, an evaluation."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec

from capscale.checks import check_whole
from capscale.formats.base import Context
from capscale.formats.capabilities import Stateful, draws, learns
from capscale.kernels.mesh import automatic_axes
from capscale.models.assigned import Held, assigned, every
from capscale.models.compression import mask_pass_rate, weights_distance, weights_error
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.layers import NOISE
from capscale.models.loss import tokens_at_once
from capscale.models.projected import FormatState, initial_format_state, next_format_state, project_params
from capscale.policy import Frozen
from capscale.representation import DENSE, DENSE_OPERAND, Representation
from capscale.train.gradient import gathered_once, mean_of_parts, microbatches, splits_weights
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.optimizer import gradient_transform, rate_at
from capscale.train.run import Optimizer, Run
from capscale.train.sharding import DATA, mapped, split_as_state


class TrainState(NamedTuple):
    """All that a resumed run needs, and all that a checkpoint holds."""

    params: Any
    formats: FormatState
    """State of the weights' format, such as RigL's masks; empty for most."""
    moments: optax.OptState
    step: Array
    """Optimizer steps done, int32 scalar."""
    key: Array
    """PRNG key data of the run, uint32: noise at step t draws from it folded with t."""
    diverged_at: Array
    """First step, counted from 1, whose loss was not finite; 0 while there is none. int32 scalar."""
    averages: dict[str, Array]
    """Means of the metrics in `AVERAGED` over every eighth step so far, float32 scalars."""
    latest: dict[str, Array]
    """The same metrics at the newest step that measured them, which is the last one of a whole run."""


AVERAGED = ("weights_distance", "weights_error", "mask_pass_rate")
"""Metrics whose mean over the run, and whose end, are of interest: see `capscale.models.compression`."""
MEASURED_EVERY = 8
"""They are averaged over the first step and every eighth from there on: they pass over all weights, and change slowly.
The last step is measured too, with the weights before its update."""


class RunScalars(NamedTuple):
    """Scalars that may differ between runs of one compiled program; float32 and int32."""

    learning_rate: Array
    steps: Array


@dataclass(frozen=True)
class Program:
    """Static arguments of a compiled train step. Runs with equal programs share one compilation.

    `devices`: how many a batch is split over; only the memory of the logits follows from it.
    """

    model: ModelConfig
    representation: Frozen
    optimizer: Optimizer
    batch: int
    memory: Memory = AT_ONCE
    devices: int = 1

    def __post_init__(self):
        check_whole(self, "batch", "devices", least=1)
        self.memory.check(self.batch, self.devices)

    @classmethod
    def of(cls, run: Run, memory: Memory = AT_ONCE, devices: int = 1) -> "Program":
        """The program of a run: its learning rate, length and seed are data, not code."""
        optimizer = dataclasses.replace(run.optimizer, learning_rate=1.0)
        return cls(run.model, run.representation, optimizer, run.batch, memory, devices)

    @property
    def start(self) -> "Program":
        """The program that the initial state depends on: formats without learned scales or state share one."""
        representation = self.representation
        if not isinstance(representation, Representation):
            plain = all(_owned_of(each) == DENSE for each in every(self.held))
            return dataclasses.replace(self, representation=DENSE if plain else representation, memory=AT_ONCE)
        return dataclasses.replace(self, representation=_owned_of(representation), memory=AT_ONCE)

    @cached_property
    def held(self) -> Held:
        """Representations of all weights of the model, by its policy."""
        return assigned(self.model, self.representation)

    @property
    def module(self) -> Decoder:
        """Flax module of the model."""
        return Decoder(self.model, self.held, self.memory.remat)

    def tokens_at_once(self, sequences: int) -> int:
        """Tokens of each of so many sequences, of all devices, whose logits exist together."""
        return tokens_at_once(sequences // self.devices, self.model.context, self.model.vocabulary)


def _owned_of(representation: Representation) -> Representation:
    """The representation with operands of learned scales or state alone; dense where there are none."""
    owns = [
        operand if learns(operand.format) or isinstance(operand.format, Stateful) else DENSE_OPERAND
        for operand in (representation.weights, representation.activations)
    ]
    plain = all(operand.is_dense for operand in owns)
    if plain:
        return DENSE
    return Representation(owns[0], owns[1], representation.hadamard, representation.signs)


def initial_state(program: Program, seed: Array) -> TrainState:
    """State before the first step; `seed` is an int32 scalar, so that seeds can be mapped over."""
    init_key, noise_key = jax.random.split(jax.random.key(seed))
    params = initial_params(program.model, program.held, init_key)
    return TrainState(
        params=params,
        formats=initial_format_state(params, program.held),
        moments=gradient_transform(program.optimizer).init(params),
        step=jnp.int32(0),
        key=jax.random.key_data(noise_key),
        diverged_at=jnp.int32(0),
        averages=dict.fromkeys(AVERAGED, jnp.float32(0)),
        latest=dict.fromkeys(AVERAGED, jnp.float32(0)),
    )


def token_losses(program: Program, held: Any, window_BU: Array, ctx: Context, devices_apart: int = 1) -> Array:
    """Cross-entropy in nats of every target, `float32 (B, T)`, under held weights.

    `window_BU` holds `T + 1` symbols: inputs are the first T, targets the last T. `devices_apart`: how many devices do
    so each with windows of its own.
    """
    at_once = program.tokens_at_once(len(window_BU) * devices_apart)
    return _applied(program, "losses", held, window_BU, ctx=ctx, at_once=at_once)


def _applied(program: Program, method: str, held: Any, window_BU: Array, *, ctx: Context, at_once: int) -> Any:
    rngs = None if ctx.key is None else {NOISE: ctx.key}
    return program.module.apply({"params": held}, window_BU, ctx, at_once, rngs=rngs, method=method)


def loss_and_gradient(
    program: Program, held: Any, window_BU: Array, ctx: Context, data_parallel_axis: str | None = None
) -> tuple[Array, Any]:
    """Mean loss of a batch and its gradient with respect to held weights, micro-batch by micro-batch.

    `data_parallel_axis`: axis of a mesh along which devices hold parts of the batch and add up once, after their last
    micro-batch.
    """
    parts, together = program.memory.microbatches, _draws_together(program)
    once = program.memory.gather == "step" and data_parallel_axis is None and splits_weights() and not together
    devices = program.devices if once else 1
    devices_apart = devices if data_parallel_axis is None else jax.lax.axis_size(data_parallel_axis)

    def of_part(held: Any, window_bU: Array, ctx: Context) -> tuple[Array, Any]:
        at_once = program.tokens_at_once(len(window_bU) * devices_apart)
        return jax.value_and_grad(
            lambda held: _applied(program, "mean_loss", held, window_bU, ctx=ctx, at_once=at_once)
        )(held)

    def of_batch(held: Any, window_BU: Array, ctx: Context) -> tuple[Array, Any]:
        return mean_of_parts(of_part, held, window_BU, ctx, parts)

    if once:
        return gathered_once(of_batch, held, window_BU, ctx, program.model.dtype)
    mean = of_batch(held, window_BU, ctx)
    return mean if data_parallel_axis is None else jax.lax.pmean(mean, data_parallel_axis)


def train_step(
    program: Program, state: TrainState, window_BU: Array, scalars: RunScalars, data_parallel_axis: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One AdamW step on one batch; `data_parallel_axis`: see `loss_and_gradient`.

    Metrics: the batch loss in nats per token, the gradient norm, and those of `AVERAGED`, NaN where not measured.
    """
    # Midpoint of the step: neither the first step nor the last has a learning rate of zero.
    progress = (state.step.astype(jnp.float32) + 0.5) / scalars.steps.astype(jnp.float32)
    ctx = Context(progress, jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))

    held, vjp_to_master = jax.vjp(
        lambda params: split_as_state(project_params(params, program.held, ctx, state.formats)), state.params
    )
    loss, held_gradient = loss_and_gradient(program, held, window_BU, ctx, data_parallel_axis)
    (gradient,) = vjp_to_master(held_gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 step count with floats
        direction, moments = gradient_transform(program.optimizer).update(gradient, state.moments, state.params)
    rate = scalars.learning_rate * rate_at(program.optimizer, progress)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)

    def measure() -> dict[str, Array]:
        return {
            "weights_distance": weights_distance(state.params, held, program.held),
            "weights_error": weights_error(state.params, held, program.held),
            "mask_pass_rate": mask_pass_rate(state.params, held, vjp_to_master, program.held),
        }

    averaging = state.step % MEASURED_EVERY == 0
    measuring = averaging | (state.step + 1 == scalars.steps)
    measured = jax.lax.cond(measuring, measure, lambda: dict.fromkeys(AVERAGED, jnp.float32(jnp.nan)))
    share = 1 / (state.step // MEASURED_EVERY + 1).astype(jnp.float32)
    averages = {
        name: jnp.where(averaging, mean + (measured[name] - mean) * share, mean)
        for name, mean in state.averages.items()
    }
    latest = {name: jnp.where(measuring, measured[name], before) for name, before in state.latest.items()}
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient), **measured}
    formats = next_format_state(
        state.formats, params, held_gradient, program.held, step=state.step + 1, progress=progress
    )
    diverged_at = jnp.where((state.diverged_at == 0) & ~jnp.isfinite(loss), state.step + 1, state.diverged_at)
    return TrainState(params, formats, moments, state.step + 1, state.key, diverged_at, averages, latest), metrics


def train_chunk(
    program: Program, state: TrainState, window_SBU: Array, count: Array, scalars: RunScalars
) -> tuple[TrainState, dict[str, Array]]:
    """`count <= S` steps in one program, hundreds at a time so that Python is out of the way of tiny models.

    Args:
      program: static.
      state: state before the chunk.
      window_SBU: the batch of every step, U being context + 1, of an integer type; rows from `count` on are not read.
      count: steps to do, int32 scalar: chunks of any length share one compilation.
      scalars: the run's own numbers.

    Returns:
      The state after the chunk and metrics, each `float32 (S,)`, NaN from `count` on.

    Where every device of the context mesh holds all parameters, each goes through the steps by itself, on its part of
    the batch, and one all-reduce a step adds up gradients. XLA by itself would insert one for every micro-batch, and
    would shard the projection of weights, which takes longer to gather than to compute.
    """
    axis = _data_parallel_axis(program)

    def steps(
        state: TrainState, window_SBU: Array, count: Array, scalars: RunScalars
    ) -> tuple[TrainState, dict[str, Array]]:
        def body(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
            state, history = carry
            state, metrics = train_step(program, state, window_SBU[i].astype(jnp.int32), scalars, axis)
            return state, {name: history[name].at[i].set(value) for name, value in metrics.items()}

        names = ("loss", "grad_norm", *AVERAGED)
        history = {name: jnp.full(window_SBU.shape[0], jnp.nan, jnp.float32) for name in names}
        return jax.lax.fori_loop(jnp.int32(0), count, body, (state, history))

    if axis is None:
        return steps(state, window_SBU, count, scalars)
    same = PartitionSpec()
    return mapped(steps, (same, PartitionSpec(None, axis), same, same), same)(state, window_SBU, count, scalars)


def evaluate_chunk(program: Program, state: TrainState, window_SBU: Array) -> Array:
    """Mean loss of every window in nats per token, `float32 (S, B)`, with the formats as at the end of training.

    Weights are projected, held and shared out over devices as `train_chunk` does, and windows taken in micro-batches.
    """
    data_parallel_axis, parts = _data_parallel_axis(program), program.memory.microbatches

    def losses(state: TrainState, window_SBU: Array) -> Array:
        key = jax.random.wrap_key_data(state.key)
        ctx = Context(jnp.float32(1), key)
        held = split_as_state(project_params(state.params, program.held, ctx, state.formats))
        devices_apart = 1 if data_parallel_axis is None else jax.lax.axis_size(data_parallel_axis)

        def losses_b(part: tuple[Array, Array]) -> Array:
            window_bU, number = part
            ctx_b = ctx if parts == 1 else ctx._replace(key=jax.random.fold_in(key, number))
            return token_losses(program, held, window_bU.astype(jnp.int32), ctx_b, devices_apart).mean(axis=-1)

        def losses_B(window_BU: Array) -> Array:
            loss_Pb = jax.lax.map(losses_b, (microbatches(window_BU, parts), jnp.arange(parts)))
            return jnp.moveaxis(loss_Pb, 0, 1).reshape(len(window_BU))

        return jax.lax.map(losses_B, window_SBU)

    if data_parallel_axis is None:
        return losses(state, window_SBU)
    split = PartitionSpec(None, data_parallel_axis)
    return mapped(losses, (PartitionSpec(), split), split)(state, window_SBU)


def _data_parallel_axis(program: Program) -> str | None:
    """The axis of the context mesh along which devices work apart, where every one holds all parameters."""
    mesh, auto = automatic_axes()
    alone = DATA in auto and 1 < mesh.shape[DATA] == mesh.size and not _draws_together(program)
    return DATA if alone else None


def _draws_together(program: Program) -> bool:
    """Whether noise is drawn for all tokens at once, also of gradients, so that devices do not part."""
    return any(draws(each.activations.format) or each.gradients.rounds_by_chance for each in every(program.held))
