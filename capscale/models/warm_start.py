"""Formats that begin in the middle of training: their learned scales and masks start from the weights as they are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
from jax import Array

from capscale.formats.base import Context
from capscale.formats.capabilities import Stateful, learns
from capscale.models.assigned import Held, every, mapped
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.layers import NOISE
from capscale.models.learned_steps import STEP, with_steps
from capscale.models.owned import add_learned, initial_format_state
from capscale.models.projected import (
    KERNEL,
    LEARNED,
    FormatState,
    kernels_of,
    pieces_of,
    values_of,
)
from capscale.operands import DENSE_OPERAND
from capscale.representation import DENSE_GRADIENTS, Representation


def starts_anew(held: Held) -> bool:
    """Whether some format has learned scales or a state that start with it."""
    operands = [operand for each in every(held) for operand in (each.weights, each.activations)]
    return any(learns(operand.format) or isinstance(operand.format, Stateful) for operand in operands)


def started(
    model: ModelConfig, begins: Held, runs: Held, params: Any, formats: FormatState, *, tokens_BT: Array, ctx: Context
) -> tuple[Any, FormatState]:
    """Parameters and formats' state at the step from which on more is compressed.

    Args:
      model: shape of the decoder.
      begins: representations of the weights that are compressed from here on, dense for all others.
      runs: representations of all weights from here on.
      params: the parameters, with what formats learn.
      formats: the formats' state.
      tokens_BT: ids that scales of activations are measured on.
      ctx: of the step.

    Returns:
      The same with learned scales and states of `begins` as formats start them; all other numbers as they were.
    """
    state = dict(formats)
    for path, fresh in initial_format_state(params, begins).items():
        state[path] = _placed(formats[path], fresh, _layers(params, begins, path, "weights"))
    own, fresh = values_of(params), values_of(add_learned(params, begins))
    steps: dict[str, Array] = {}
    for path in kernels_of(params):
        name, layers = path.removesuffix(KERNEL) + LEARNED, _layers(params, begins, path, "weights")
        if layers and any(learns(each.weights.format) for *_, each in layers):
            steps[name] = _placed(own[name], fresh[name], layers)
    if any(learns(each.activations.format) for each in every(begins)):
        steps |= _of_inputs(model, begins, runs, params, tokens_BT=tokens_BT, ctx=ctx)
    return with_steps(params, steps), state


def _of_inputs(
    model: ModelConfig, begins: Held, runs: Held, params: Any, *, tokens_BT: Array, ctx: Context
) -> dict[str, Array]:
    """Learned scales of inputs of layers, measured with dense weights as at the start of training."""
    plain = mapped(runs, lambda each: replace(each, weights=DENSE_OPERAND, gradients=DENSE_GRADIENTS))
    rngs = {} if ctx.key is None else {NOISE: jax.random.fold_in(ctx.key, 1)}
    fresh: Mapping[str, Array] = Decoder(model, plain).apply(  # pyright: ignore[reportAssignmentType]
        {"params": params}, tokens_BT, ctx, rngs=rngs, method="first_steps"
    )
    own, found = values_of(params), {}
    for path in kernels_of(params):
        name = path.removesuffix(KERNEL) + STEP
        begun = _layers(params, begins, path, "activations")
        layers = [run for run in begun if learns(run[2].activations.format)]
        if layers:
            found[name] = _placed(own[name], fresh[name.removeprefix("layers/")], layers)
    return found


def _layers(params: Any, begins: Held, path: str, side: str) -> list[tuple[int, int, Representation]]:
    """Runs of layers of one kernel that begin to be compressed: the first, the one behind the last, and how."""
    found = []
    for piece in pieces_of(params, begins):
        if piece.path == path and not getattr(piece.representation, side).is_dense:
            first, stop = piece.layers or (0, kernels_of(params)[path].shape[0])
            found.append((first, stop, piece.representation))
    return found


def _placed(before: Array, fresh: Array, layers: list[tuple[int, int, Representation]]) -> Array:
    """`before` with the given layers of `fresh`."""
    for first, stop, _ in layers:
        before = before.at[first:stop].set(fresh[first:stop])
    return before
