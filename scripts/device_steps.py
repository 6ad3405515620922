"""Training steps on the device: time, tokens per second, MFU, peak memory, seconds of compiling.

FLOPs are those of `capscale.train.flops`: 6 for every weight of a matrix, the head included, and token, and 12 L M T
for attention; MFU is their share of the bfloat16 product that `device_where` measures. Several steps are one program,
as in training, with the batch of each.
"""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from capscale.kernels import config, dispatch
from device_plan import REHEARSE

from capscale.models.config import ModelConfig
from capscale.models.ladder import find_size
from capscale.representation import DENSE_OPERAND, Representation, operand
from capscale.train.flops import flops_per_token
from capscale.train.run import Optimizer
from capscale.train.step import Program, RunScalars, initial_state, train_chunk

BATCH = 1 if REHEARSE else 16
STEPS = 2 if REHEARSE else 10
ROUNDS = 1 if REHEARSE else 4
INTERPRETED = False  # flax's scan over layers takes no callbacks, which interpreters are: a CPU rehearses without


def model_of(size: str) -> ModelConfig:
    """The ladder's model in bfloat16; in a rehearsal one that a CPU steps in a second."""
    model = dataclasses.replace(find_size(size), dtype="bfloat16")
    if not REHEARSE:
        return model
    return dataclasses.replace(model, layers=1, heads=1, width=128, vocabulary=256, context=32)


def compiled(case: str, row: dict[str, Any]) -> tuple[Any, Any, Program]:
    """The initial state and the steps of a case, compiled, and how long that took while others were too."""
    size, fmt, mode = case.split()
    os.environ[config.KERNELS] = mode
    both = operand("int4", per_token=True) if fmt == "int4-both" else DENSE_OPERAND
    representation = Representation() if fmt == "dense" else Representation(operand("int4"), both, hadamard=128)
    program = Program(model_of(size), representation, Optimizer(1.0), BATCH)
    start = perf_counter()
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    with dispatch.force("reference"):
        initial = jax.jit(partial(initial_state, program)).lower(seed)
    state = initial.out_info
    windows = jax.ShapeDtypeStruct((STEPS, BATCH, program.model.context + 1), jnp.uint16)
    scalars = RunScalars(jnp.float32(1e-3), jnp.int32(1000))
    lowered = jax.jit(partial(train_chunk, program), donate_argnums=0).lower(state, windows, seed, scalars)
    traced = perf_counter() - start
    step = lowered.compile()
    sizes = step.memory_analysis()
    row |= {
        "temp_bytes": None if sizes is None else sizes.temp_size_in_bytes,
        "trace_s": traced,
        "compile_s": perf_counter() - start - traced,
        "kernels": kernels_in(step.as_text() or ""),
    }
    return initial.compile(), step, program


def kernels_in(text: str) -> int:
    """Calls of Pallas kernels in a compiled program."""
    return sum(
        " custom-call(" in line and ("mosaic" in line or "tpu_custom_call" in line) for line in text.splitlines()
    )


def prepare(case: str, row: dict[str, Any]) -> Callable[[], None]:
    """One case compiled; what is given measures it."""
    return partial(_measure, *compiled(case, row), row)


def _measure(initial: Any, step: Any, program: Program, row: dict[str, Any]) -> None:
    model = program.model
    state = initial(jnp.int32(0))
    shape = (STEPS, BATCH, model.context + 1)
    windows = jnp.asarray(np.random.default_rng(0).integers(0, model.vocabulary, shape, np.uint16))
    scalars, count = RunScalars(jnp.float32(1e-3), jnp.int32(1000)), jnp.int32(STEPS)
    times, losses = [], []
    for _ in range(1 + ROUNDS):
        start = perf_counter()
        state, metrics = step(state, windows, count, scalars)
        losses += np.asarray(metrics["loss"]).tolist()
        times.append((perf_counter() - start) / STEPS)
    taken, tokens = median(times[1:]), BATCH * model.context
    memory = jax.devices()[0].memory_stats() or {}
    row |= {
        "step_s": taken,
        "fastest_step_s": min(times[1:]),
        "slowest_step_s": max(times[1:]),
        "tokens_per_s": tokens / taken,
        "flop_per_step": tokens * flops_per_token(model),
        "flop_per_s": tokens * flops_per_token(model) / taken,
        "peak_bytes": memory.get("peak_bytes_in_use"),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
