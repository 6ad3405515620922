"""State of training: what a checkpoint holds, how it starts, and how formats enter it that begin later."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from capscale.formats.base import Context
from capscale.models.initial import initial_params
from capscale.models.owned import initial_format_state
from capscale.models.projected import FormatState
from capscale.models.warm_start import started, starts_anew
from capscale.train.optimizer import gradient_transform
from capscale.train.program import Phase, Program


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
"""Metrics whose mean over the run, and whose end, are of interest: see `capscale.models.compression`. Where rules start
later, over the part from which on all of them hold."""
MEASURED_EVERY = 8
"""They are averaged over the first step and every eighth from there on: they pass over all weights, and change slowly.
The last step is measured too, with the weights before its update."""


class RunScalars(NamedTuple):
    """Scalars that may differ between runs of one compiled program; float32 and int32."""

    learning_rate: Array
    steps: Array


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


def context_of(state: TrainState, scalars: RunScalars) -> Context:
    """Inputs of formats at a step: the share of training done, and a key."""
    # Midpoint of the step: neither the first step nor the last has a learning rate of zero.
    progress = (state.step.astype(jnp.float32) + 0.5) / scalars.steps.astype(jnp.float32)
    return Context(progress, jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))


def begun(
    phase: Phase, state: TrainState, window_BU: Array, *, first: Array, scalars: RunScalars, axis: str | None
) -> TrainState:
    """State at the first step of a part of training: learned scales and masks start from the weights as they are.

    Scales of activations start from the first sequence of the batch. `axis`: along which devices hold parts of it.
    """
    if not starts_anew(phase.begins):
        return state
    program = phase.program
    window_U = window_BU[:1] if axis is None else jax.lax.all_gather(window_BU[:1], axis)[0]
    ctx = context_of(state, scalars)

    def anew() -> tuple[Any, FormatState]:
        tokens_BT = window_U[:, :-1]
        return started(
            program.model, phase.begins, program.held, state.params, state.formats, tokens_BT=tokens_BT, ctx=ctx
        )

    params, formats = jax.lax.cond(state.step == first, anew, lambda: (state.params, state.formats))
    return state._replace(params=params, formats=formats)
