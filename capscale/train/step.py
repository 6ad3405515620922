"""The compiled part of training: one step, a chunk of steps, an evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec

from capscale.formats.base import Context
from capscale.formats.schedule import first_step
from capscale.models.compression import mask_pass_rate, weight_errors, weights_distance, weights_error
from capscale.models.multiplied import with_codes
from capscale.models.owned import next_format_state
from capscale.models.parametrized import with_matrices
from capscale.models.projected import path_name, project_params
from capscale.train.gradient import microbatches
from capscale.train.losses import codable_weights, loss_and_gradient, parallel_axis, ready_codes, token_losses
from capscale.train.metrics import SWITCHED
from capscale.train.optimizer import gradient_transform, rate_at
from capscale.train.program import Phase, Program
from capscale.train.sharding import by_outputs, mapped, split_as_state
from capscale.train.state import (
    AVERAGED,
    MEASURED_EVERY,
    RunScalars,
    TrainState,
    begun,
    context_of,
    initial_state,
)

__all__ = [
    "AVERAGED",
    "MEASURED_EVERY",
    "Program",
    "RunScalars",
    "TrainState",
    "evaluate_chunk",
    "initial_state",
    "train_chunk",
    "train_step",
]


def train_step(
    program: Program, state: TrainState, window_BU: Array, scalars: RunScalars, data_parallel_axis: str | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One AdamW step on one batch; `data_parallel_axis`: see `loss_and_gradient`.

    Metrics: the batch loss in nats per token, the gradient norm, and those of `AVERAGED`, NaN where not measured. Where
    rules start later, each part of training is a branch of one program, and a metric says where the next one began.
    """
    if len(program.phases) == 1:
        return _step(program, state, window_BU, scalars, data_parallel_axis)
    firsts = [first_step(phase.starts, scalars.steps) for phase in program.phases]
    number = sum((state.step >= first).astype(jnp.int32) for first in firsts[1:])
    switched = jnp.float32(jnp.nan)
    for first, phase in zip(firsts[1:], program.phases[1:], strict=True):
        state = begun(phase, state, window_BU, first=first, scalars=scalars, axis=data_parallel_axis)
        switched = jnp.where(state.step == first, (state.step + 1).astype(jnp.float32), switched)

    def branch(phase: Phase) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
        since = firsts[-1] if phase == program.phases[-1] else None
        return lambda state, window_BU: _step(
            phase.program, state, window_BU, scalars, data_parallel_axis, over=Averaging(since)
        )

    state, metrics = jax.lax.switch(number, [branch(phase) for phase in program.phases], state, window_BU)
    return state, metrics | {SWITCHED: switched}


def _held(program: Program, params: Any, ctx: Context, formats: Any) -> Any:
    """Parameters as products take them: matrices made of what is stored, and projected."""
    matrices = with_matrices(params, program.model, program.held)
    return split_as_state(project_params(matrices, program.held, ctx, formats, by_outputs))


class Averaging(NamedTuple):
    """Steps that averages are taken over, of a run whose rules start later.

    Attributes:
      since: the first of them; None before it.
    """

    since: Array | None


def _step(
    program: Program,
    state: TrainState,
    window_BU: Array,
    scalars: RunScalars,
    data_parallel_axis: str | None,
    *,
    over: Averaging | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    ctx = context_of(state, scalars)
    progress = jnp.asarray(ctx.progress)
    held, vjp_to_master = jax.vjp(lambda params: _held(program, params, ctx, state.formats), state.params)
    if program.slices:
        loss, gradient, held_gradient = _over_widths(program, state, window_BU, ctx, data_parallel_axis)
    else:
        codable = codable_weights(program, state.params, ctx, len(window_BU), data_parallel_axis)
        loss, held_gradient = loss_and_gradient(program, held, window_BU, ctx, data_parallel_axis, codable=codable)
        (gradient,) = vjp_to_master(held_gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 step count with floats
        direction, moments = gradient_transform(program.optimizer).update(gradient, state.moments, state.params)
    rate = scalars.learning_rate * rate_at(program.optimizer, progress)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    if program.optimizer.correction is not None:
        share = program.optimizer.correction.share(rate, progress)
        errors = weight_errors(state.params, held, program.held)
        params = jax.tree_util.tree_map_with_path(
            lambda path, p: p - share * errors[path_name(path)] if path_name(path) in errors else p, params
        )

    def measure() -> dict[str, Array]:
        return {
            "weights_distance": weights_distance(state.params, held, program.held),
            "weights_error": weights_error(state.params, held, program.held),
            "mask_pass_rate": mask_pass_rate(state.params, held, vjp_to_master, program.held),
        }

    step = state.step if over is None or over.since is None else state.step - over.since
    averaging = step % MEASURED_EVERY == 0
    measuring = averaging | (state.step + 1 == scalars.steps)
    if over is not None and over.since is None:
        averaging = measuring = jnp.bool_(False)
    measured = jax.lax.cond(measuring, measure, lambda: dict.fromkeys(AVERAGED, jnp.float32(jnp.nan)))
    share = 1 / (step // MEASURED_EVERY + 1).astype(jnp.float32)
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


def _over_widths(
    program: Program, state: TrainState, window_BU: Array, ctx: Context, data_parallel_axis: str | None
) -> tuple[Array, Any, Any]:
    """Mean loss over the widths of nested weights; its gradient by master weights and, summed, by those held.

    Widths whose loss does not count are left out.
    """
    total: tuple[Array, Any, Any] | None = None
    for _, share, each in program.slices:
        if not share:
            continue

        held, vjp_to_master = jax.vjp(partial(_held, each, ctx=ctx, formats=state.formats), state.params)
        loss, held_gradient = loss_and_gradient(each, held, window_BU, ctx, data_parallel_axis)
        own = loss, *vjp_to_master(held_gradient), held_gradient
        own = jax.tree.map(lambda value, share=share: jnp.float32(share) * value, own)
        total = own if total is None else jax.tree.map(jnp.add, total, own)
    assert total is not None
    return total


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
    axis = parallel_axis(program)

    def steps(
        state: TrainState, window_SBU: Array, count: Array, scalars: RunScalars
    ) -> tuple[TrainState, dict[str, Array]]:
        def body(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
            state, history = carry
            state, metrics = train_step(program, state, window_SBU[i].astype(jnp.int32), scalars, axis)
            return state, {name: history[name].at[i].set(value) for name, value in metrics.items()}

        names = ("loss", "grad_norm", *AVERAGED, *([SWITCHED] if len(program.phases) > 1 else []))
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
    data_parallel_axis, parts = parallel_axis(program), program.memory.microbatches

    def losses(state: TrainState, window_SBU: Array) -> Array:
        key = jax.random.wrap_key_data(state.key)
        ctx = Context(jnp.float32(1), key)
        held = _held(program, state.params, ctx, state.formats)
        held = with_codes(held, ready_codes(program, state.params, ctx, window_SBU.shape[1]))
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
