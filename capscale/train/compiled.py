"""Compiled functions of a program: of one run over a mesh, and of several side by side; kept for later runs."""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from threading import RLock
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from capscale.kernels.fallback import WithFallback
from capscale.train.sharding import batch_sharding, compiler_options, replicated, state_sharding
from capscale.train.step import Program, RunScalars, TrainState, evaluate_chunk, initial_state, train_chunk

Made = ParamSpec("Made")
Value = TypeVar("Value")
RUNS = "runs"
"""Name of the axis of runs side by side on one device."""


class Functions(NamedTuple):
    """Compiled `initial_state`, `train_chunk` and `evaluate_chunk` of `capscale.train.step`."""

    initial_state: Any
    train_chunk: Any
    evaluate: Any


_MAKING = RLock()
"""Threads that train runs of one program side by side are to share its functions: JAX compiles each of these once,
however many call it, but a cache alone would let every thread that comes before the first is done make its own."""

PROGRAMS_HELD = 32
"""Compiled programs kept for further runs, beside those of runs under way: one takes 800 to 1,200 of the 65,530
memory maps that Linux grants a process, and a sweep has hundreds of programs."""


def _once(make: Callable[Made, Value]) -> Callable[Made, Value]:
    """Keeps what `make` made last, and lets one thread at a time into it."""
    cached = lru_cache(PROGRAMS_HELD)(make)

    @wraps(make)
    def made(*args: Made.args, **kwargs: Made.kwargs) -> Value:
        with _MAKING:
            return cached(*args, **kwargs)

    return made


@_once
def sharded(program: Program, mesh: Mesh) -> Functions:
    """Functions of one run over a mesh; equal programs on equal meshes get the same."""
    initial = _start(program.start, mesh)
    state = state_sharding(mesh, jax.eval_shape(initial, jax.ShapeDtypeStruct((), jnp.int32)))
    everywhere, batches = replicated(mesh), batch_sharding(mesh, batch_axis=1)
    options = compiler_options(mesh)
    return Functions(
        initial,
        WithFallback(
            jax.jit(
                partial(train_chunk, program),
                in_shardings=(state, batches, everywhere, everywhere),
                out_shardings=(state, everywhere),
                donate_argnums=0,
                compiler_options=options,
            )
        ),
        WithFallback(
            jax.jit(
                partial(evaluate_chunk, program),
                in_shardings=(state, batches),
                out_shardings=everywhere,
                compiler_options=options,
            )
        ),
    )


@_once
def _start(program: Program, mesh: Mesh) -> Any:
    """One compilation for all formats of a size that own nothing."""
    start = partial(initial_state, program)
    shape = jax.eval_shape(start, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.jit(start, out_shardings=state_sharding(mesh, shape))


def train_chunk_of_runs(
    program: Program, state: TrainState, window_RSBU: Array, count: Array, scalars: RunScalars
) -> tuple[TrainState, dict[str, Array]]:
    """`train_chunk` of runs that are at the same step of as many; all but `count` have a leading axis of runs.

    All runs share one step counter and one length, so that `lax.cond` on them stays a branch under vmap: measurements
    and moves of masks, which are due every few steps, do not become a select that computes them at every step.
    """

    def of_run(state: TrainState, window_SBU: Array, scalars: RunScalars) -> tuple[TrainState, dict[str, Array]]:
        state = state._replace(step=jax.lax.pmax(state.step, RUNS))
        return train_chunk(program, state, window_SBU, count, scalars._replace(steps=jax.lax.pmax(scalars.steps, RUNS)))

    return jax.vmap(of_run, axis_name=RUNS)(state, window_RSBU, scalars)


@_once
def side_by_side(program: Program, devices: tuple[Any, ...]) -> Functions:
    """pmap over devices of vmap over the runs of one device."""

    def mapped(inner: Any, axes: tuple[int | None, ...], donate: tuple[int, ...] = ()) -> Any:
        return WithFallback(jax.pmap(inner, in_axes=axes, devices=devices, donate_argnums=donate))

    return Functions(
        jax.pmap(jax.vmap(partial(initial_state, program.start)), devices=devices),
        mapped(partial(train_chunk_of_runs, program), (0, 0, None, 0), donate=(0,)),
        mapped(jax.vmap(partial(evaluate_chunk, program), in_axes=(0, None)), (0, None)),
    )
