"""The loss of a batch and its gradient: in micro-batches, on one device or several, each with rows of its own."""

from typing import Any

import jax
from jax import Array

from capscale.formats.base import Context
from capscale.kernels.mesh import automatic_axes
from capscale.models.initial import initial_params
from capscale.models.layers import NOISE
from capscale.models.multiplied import multiplicands, with_codes
from capscale.models.parametrized import with_matrices
from capscale.models.projected import coded_kernels, kernels_of
from capscale.representation import coded_weights, takes_codes
from capscale.train.gradient import NOTHING, Codable, Codes, Sent, gathered_once, mean_of_parts, splits_weights
from capscale.train.program import Program
from capscale.train.run import draws_together, gathers
from capscale.train.sharding import DATA, by_outputs, mean_over_devices, split_as_state


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
    program: Program,
    held: Any,
    window_BU: Array,
    ctx: Context,
    data_parallel_axis: str | None = None,
    *,
    codable: Codable = NOTHING,
) -> tuple[Array, Any]:
    """Mean loss of a batch and its gradient with respect to held weights, micro-batch by micro-batch.

    `codable`: weights that devices that share them may send in codes.

    `data_parallel_axis`: axis of a mesh along which devices hold parts of the batch and add up once, after their last
    micro-batch, in `Optimizer.reduce`.
    """
    parts, once = program.memory.microbatches, _gathers_once(program, data_parallel_axis)
    devices = program.devices if once else 1
    devices_apart = devices if data_parallel_axis is None else jax.lax.axis_size(data_parallel_axis)

    def of_part(held: Any, coded: Codes, window_bU: Array, ctx: Context) -> tuple[Array, Any]:
        at_once = program.tokens_at_once(len(window_bU) * devices_apart)

        def loss(held: Any) -> Array:
            return _applied(program, "mean_loss", with_codes(held, coded), window_bU, ctx=ctx, at_once=at_once)

        return jax.value_and_grad(loss)(held)

    def of_batch(held: Any, coded: Codes, window_BU: Array, ctx: Context) -> tuple[Array, Any]:
        return mean_of_parts(of_part, held, coded, window_BU, ctx, parts=parts)

    if once:
        sent = Sent(program.model.dtype, program.optimizer.reduce)
        return gathered_once(of_batch, held, window_BU, ctx, sent, codable=codable)
    loss, gradient = of_batch(held, codable.ready, window_BU, ctx)
    if data_parallel_axis is None:
        return loss, gradient
    if program.optimizer.reduce == "float32":
        return jax.lax.pmean((loss, gradient), data_parallel_axis)
    mean = mean_over_devices(gradient, data_parallel_axis, program.optimizer.reduce)
    return jax.lax.pmean(loss, data_parallel_axis), mean


def _gathers_once(program: Program, data_parallel_axis: str | None) -> bool:
    """Whether devices that share weights send them once a step."""
    at_once = gathers(program.held, program.memory.gather) != "layer"
    return at_once and data_parallel_axis is None and splits_weights()


def codable_weights(
    program: Program, params: Any, ctx: Context, sequences: int, data_parallel_axis: str | None
) -> Codable:
    """Weights that are sent or multiplied in codes by these settings, as they are before they are projected."""
    if not _gathers_once(program, data_parallel_axis):
        return NOTHING._replace(ready=ready_codes(program, params, ctx, sequences))
    in_place = program.memory.gather == "codes"
    if not in_place and not takes_codes():
        return NOTHING
    params = with_matrices(params, program.model, program.held)
    representations, kernels = coded_kernels(params, program.held), kernels_of(params)
    own = {path: kernels[path] for path in representations}
    return Codable(own, representations, in_place, _rows(program, sequences))


def ready_codes(program: Program, params: Any, ctx: Context, sequences: int) -> Codes:
    """Codes of the weights that products of codes read, split over devices as the weights are."""
    if not takes_codes():
        return {}
    params = with_matrices(params, program.model, program.held)
    return split_as_state(multiplicands(params, program.held, ctx, _rows(program, sequences), by_outputs))


def _rows(program: Program, sequences: int) -> int:
    """Rows that linear layers get of a micro-batch."""
    return sequences // program.memory.microbatches * program.model.context


def sends_codes(program: Program) -> bool:
    """Whether devices that share weights would send some of them in codes, by the setting that asks for it."""

    def coded(key: Array) -> Any:
        params = with_matrices(initial_params(program.model, program.held, key), program.model, program.held)
        kernels = kernels_of(params)
        return {path: coded_weights(kernels[path], each) for path, each in coded_kernels(params, program.held).items()}

    return bool(jax.tree.leaves(jax.eval_shape(coded, jax.random.key(0))))


def parallel_axis(program: Program) -> str | None:
    """The axis of the context mesh along which devices work apart, where every one holds all parameters."""
    mesh, auto = automatic_axes()
    alone = DATA in auto and 1 < mesh.shape[DATA] == mesh.size and not draws_together(program.held)
    return DATA if alone else None
