"""Where runs are trained: one run sharded over a mesh, or a population of same-shape runs, one or more a device."""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from capscale.train.compiled import sharded, side_by_side
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.run import Run
from capscale.train.sharding import (
    FSDP,
    batch_sharding,
    check_reduce,
    local_rows,
)
from capscale.train.step import Program, RunScalars, TrainState, initial_state

Histories = dict[str, np.ndarray]
"""Metrics of a chunk, each `float32 (runs, steps)`."""


class Executor(Protocol):
    """Trains runs of one program side by side.

    R runs, S steps, B sequences of U = context + 1 symbols: the `rows` of a batch, where several processes share it.
    """

    devices: int
    """How many devices are at work."""
    rows: slice
    """Rows of each batch that this process feeds its devices with."""

    def initial_state(self, runs: list[Run]) -> Any:
        """State of all runs before the first step."""
        ...

    def abstract_states(self, runs: list[Run]) -> list[TrainState]:
        """Result of `unstack` as shapes, dtypes and shardings; nothing is computed."""
        ...

    def train_chunk(self, state: Any, window_RSBU: np.ndarray, count: int, runs: list[Run]) -> tuple[Any, Histories]:
        """`count` steps of every run; the state passed in is consumed."""
        ...

    def evaluate(self, state: Any, window_SBU: np.ndarray, runs: list[Run], width: int | None = None) -> np.ndarray:
        """Mean loss of every window, `float32 (R, S, B)`; of nested weights those of `width` bits, else the widest."""
        ...

    def diverged_at(self, state: Any, runs: list[Run]) -> np.ndarray:
        """`TrainState.diverged_at` of every run, `int32 (R,)`."""
        ...

    def measures(self, state: Any, runs: list[Run]) -> dict[str, np.ndarray]:
        """Realised statistics of the weights of every run, each `float32 (R,)`: see `told`."""
        ...

    def unstack(self, state: Any, runs: list[Run]) -> list[TrainState]:
        """One state a run, as its checkpoint holds it."""
        ...

    def stack(self, states: list[TrainState]) -> Any:
        """The inverse of `unstack`."""
        ...


def told(state: TrainState) -> dict[str, Array]:
    """`TrainState.averages` by their names, and `TrainState.latest` by these with `_end`."""
    return state.averages | {f"{name}_end": value for name, value in state.latest.items()}


def _pace(run: Run) -> RunScalars:
    rate: Any = np.float32(run.optimizer.learning_rate)  # on the host, from where any number of processes takes it
    steps: Any = np.int32(run.steps)
    return RunScalars(rate, steps)


class Sharded:
    """One run over a Mesh: parameters split over "fsdp", batches over both axes."""

    def __init__(self, run: Run, mesh: Mesh, memory: Memory = AT_ONCE):
        check_reduce(run.optimizer.reduce, devices=mesh.size, fsdp=mesh.shape[FSDP], gather=memory.gather)
        self._program = Program.of(run, memory, mesh.size)
        self._functions = sharded(self._program, mesh)
        self._mesh, self._batch = mesh, run.batch
        self.devices, self.rows = mesh.size, local_rows(mesh, run.batch)

    def initial_state(self, runs: list[Run]) -> TrainState:
        """State before the first step."""
        (run,) = runs
        with jax.set_mesh(self._mesh):  # kernels split their rows over the mesh in the context
            return self._functions.initial_state(np.int32(run.seed))

    def abstract_states(self, runs: list[Run]) -> list[TrainState]:
        """Of `Executor`, for runs of this kind."""
        with jax.set_mesh(self._mesh):
            return [jax.eval_shape(self._functions.initial_state, jax.ShapeDtypeStruct((), jnp.int32))]

    def train_chunk(
        self, state: TrainState, window_RSBU: np.ndarray, count: int, runs: list[Run]
    ) -> tuple[TrainState, Histories]:
        """Of `Executor`, for runs of this kind."""
        (run,) = runs
        windows = self._batches(window_RSBU[0])
        with jax.set_mesh(self._mesh):
            state, history = self._functions.train_chunk(state, windows, np.int32(count), _pace(run))
        return state, {name: np.asarray(values)[None] for name, values in history.items()}

    def evaluate(
        self, state: TrainState, window_SBU: np.ndarray, runs: list[Run], width: int | None = None
    ) -> np.ndarray:
        """Of `Executor`, for runs of this kind."""
        windows = self._batches(window_SBU)
        functions = self._functions if width is None else sharded(self._program.at(width), self._mesh)
        with jax.set_mesh(self._mesh):
            return np.asarray(functions.evaluate(state, windows))[None]

    def diverged_at(self, state: TrainState, runs: list[Run]) -> np.ndarray:
        """Of `Executor`, for runs of this kind."""
        return np.asarray(state.diverged_at)[None]

    def measures(self, state: TrainState, runs: list[Run]) -> dict[str, np.ndarray]:
        """Of `Executor`, for runs of this kind."""
        return {name: np.asarray(value)[None] for name, value in told(state).items()}

    def _batches(self, window_SBU: np.ndarray) -> Array:
        """The global batches that every process holds its rows of."""
        S, _, U = window_SBU.shape
        sharding = batch_sharding(self._mesh, batch_axis=1)
        return jax.make_array_from_process_local_data(sharding, window_SBU, (S, self._batch, U))

    def unstack(self, state: TrainState, runs: list[Run]) -> list[TrainState]:
        """Of `Executor`, for runs of this kind."""
        return [state]

    def stack(self, states: list[TrainState]) -> TrainState:
        """Of `Executor`, for runs of this kind."""
        (state,) = states
        return state


class Population:
    """Runs that differ only in seed and learning rate: pmap over devices, vmap inside one.

    The leaves of its state have leading axes `(devices, runs per device)`; the last run is repeated to fill them.
    """

    def __init__(self, run: Run, devices: list[Any], memory: Memory = AT_ONCE):
        check_reduce(run.optimizer.reduce, devices=1)  # of a run
        self._devices, self.devices, self.rows = tuple(devices), len(devices), slice(0, run.batch)
        self._program = Program.of(run, memory)
        self._functions = side_by_side(self._program, self._devices)

    def _spread(self, values: list[Any]) -> Any:
        """Trees of one run each, stacked onto (devices, runs per device)."""
        devices = min(len(self._devices), len(values))
        per_device = -(-len(values) // devices)
        filled = values + [values[-1]] * (devices * per_device - len(values))
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(devices, per_device, *leaves[0].shape), *filled)

    def initial_state(self, runs: list[Run]) -> TrainState:
        """Of `Executor`, for runs of this kind."""
        return self._functions.initial_state(self._spread([np.int32(run.seed) for run in runs]))

    def abstract_states(self, runs: list[Run]) -> list[TrainState]:
        """See `Executor`; on the host, and so without a sharding."""
        of_run = jax.eval_shape(partial(initial_state, self._program), jax.ShapeDtypeStruct((), jnp.int32))
        return [of_run] * len(runs)

    def train_chunk(
        self, state: TrainState, window_RSBU: np.ndarray, count: int, runs: list[Run]
    ) -> tuple[TrainState, Histories]:
        """Of `Executor`, for runs of this kind."""
        paces = self._spread([_pace(run) for run in runs])
        state, history = self._functions.train_chunk(state, self._spread(list(window_RSBU)), np.int32(count), paces)
        return state, {name: self._gather(values, runs) for name, values in history.items()}

    def evaluate(
        self, state: TrainState, window_SBU: np.ndarray, runs: list[Run], width: int | None = None
    ) -> np.ndarray:
        """Of `Executor`, for runs of this kind."""
        functions = self._functions if width is None else side_by_side(self._program.at(width), self._devices)
        return self._gather(functions.evaluate(state, window_SBU), runs)

    def diverged_at(self, state: TrainState, runs: list[Run]) -> np.ndarray:
        """Of `Executor`, for runs of this kind."""
        return self._gather(state.diverged_at, runs)

    def measures(self, state: TrainState, runs: list[Run]) -> dict[str, np.ndarray]:
        """Of `Executor`, for runs of this kind."""
        return {name: self._gather(value, runs) for name, value in told(state).items()}

    def unstack(self, state: TrainState, runs: list[Run]) -> list[TrainState]:
        """Of `Executor`, for runs of this kind."""
        host = jax.tree.map(lambda leaf: self._gather(leaf, runs), state)
        return [jax.tree.map(lambda leaf, number=number: leaf[number], host) for number in range(len(runs))]

    def stack(self, states: list[TrainState]) -> TrainState:
        """Of `Executor`, for runs of this kind."""
        return self._spread([jax.tree.map(np.asarray, state) for state in states])

    @staticmethod
    def _gather(leaf: Array, runs: list[Run]) -> np.ndarray:
        host = np.asarray(leaf)
        return host.reshape(-1, *host.shape[2:])[: len(runs)]
