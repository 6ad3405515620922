"""Training that is simulated: an executor and a text that take their time, and whose result tells of every step."""

from typing import Any

import numpy as np

from capscale.data.corpus import DataId
from capscale.representation import DENSE
from capscale.train.run import Optimizer, Run
from support.cluster.simulation import Simulation
from support.tiny import MODEL

DATA = DataId("simulated", "0" * 64, MODEL.vocabulary)
STEP_S = 0.5
"""Seconds of a step."""
COMPILE_S = 45.0
"""Seconds of the first chunk in a process."""
CHUNK = 30
"""Steps of a chunk."""
BATCH = 4
SIZES = {"4 min": 0.5e9, "6 min": 1e9, "9 min": 1.5e9, "14 min": 2e9, "20 min": 4e9}
"""How long runs take, and bytes of their checkpoints."""


def steps_of(size: str) -> int:
    """Steps of the runs of a size."""
    return round(60 * int(size.partition(" ")[0]) / STEP_S)


def runs_of(count: int) -> tuple[Run, ...]:
    """So many runs, of all sizes alike."""
    sizes = list(SIZES)
    return tuple(
        Run(
            size=sizes[number % len(sizes)],
            model=MODEL,
            tokens=steps_of(sizes[number % len(sizes)]) * BATCH * MODEL.context,
            data=DATA,
            optimizer=Optimizer(0.01),
            batch=BATCH,
            ladder="simulated",
            representation=DENSE,
            seed=number,
        )
        for number in range(count)
    )


def total_after(seed: int, steps: int, total: int = 0, first: int = 0) -> int:
    """A number that every step changes: left out, repeated or out of order, the steps give another one."""
    for step in range(first, steps):
        total = (total * 1664525 + seed + step) % 2**32
    return total


def loss_of(total: int) -> float:
    """Loss of a window at the end of a run."""
    return 3 + total / 2**32


class Text:
    """Of `capscale.data.source.Source`."""

    id = DATA
    bytes_per_symbol = 1.0

    def check(self) -> None:
        """All is there."""

    def batches(
        self, context: int, batch: int, seed: int, first_step: int, steps: int, *, rows: slice = slice(None)
    ) -> np.ndarray:
        return np.zeros((steps, batch, context + 1), np.uint8)[:, rows]

    def validation(self, context: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((2, context + 1), np.uint8), np.arange(2, dtype=np.int32)


class Trainer:
    """Of `capscale.train.executor.Executor`, for one run.

    Args:
      simulation: whose seconds it takes.
      together: called in every chunk, by all processes that train the run.
      told: called with the run, its steps before and after, and the seconds that they took and that compiling did.
    """

    devices = 4
    rows = slice(None)

    def __init__(self, simulation: Simulation, together: Any, told: Any):
        self._simulation, self._together, self._told = simulation, together, told
        self._is_compiled = False

    def initial_state(self, runs: list[Run]) -> Any:
        return {"total": np.uint32(0), "step": np.int32(0), "bytes": np.uint32(SIZES[runs[0].size])}

    def abstract_states(self, runs: list[Run]) -> list[Any]:
        return [self.initial_state(runs)]

    def train_chunk(self, state: Any, window_RSBU: np.ndarray, count: int, runs: list[Run]) -> tuple[Any, Any]:
        (run,) = runs
        compiling = 0.0 if self._is_compiled else COMPILE_S
        self._is_compiled = True
        self._simulation.sleep(compiling + count * STEP_S)
        self._together()
        first = int(state["step"])
        self._told(run, first, first + count, count * STEP_S, compiling)
        total = total_after(run.seed, first + count, int(state["total"]), first)
        state = state | {"total": np.uint32(total), "step": np.int32(first + count)}
        losses = 3 + 5 * np.exp(-np.arange(first, first + count) / 300)
        return state, {"loss": losses[None].astype(np.float32), "grad_norm": np.ones((1, count), np.float32)}

    def evaluate(self, state: Any, window_SBU: np.ndarray, runs: list[Run], width: int | None = None) -> np.ndarray:
        self._simulation.sleep(2.0)
        return np.full((1, *window_SBU.shape[:2]), loss_of(int(state["total"])), np.float64)

    def diverged_at(self, state: Any, runs: list[Run]) -> np.ndarray:
        return np.zeros(1, np.int32)

    def measures(self, state: Any, runs: list[Run]) -> dict[str, np.ndarray]:
        return {}

    def unstack(self, state: Any, runs: list[Run]) -> list[Any]:
        return [state]

    def stack(self, states: list[Any]) -> Any:
        (state,) = states
        return state
