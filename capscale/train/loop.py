"""The training loop: resume, chunks of steps, checkpoints, metrics, evaluation, result."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from capscale.data.source import Source
from capscale.errors import UserError
from capscale.files import read_json, write_json, writing
from capscale.formats.describe import to_json
from capscale.train import record
from capscale.train.checkpoint import Checkpoints
from capscale.train.lease import Leases
from capscale.train.metrics import Metrics
from capscale.train.placement import Placement
from capscale.train.run import Run, canonical_json


class Interrupted(Exception):
    """Training was asked to stop; its checkpoints are on disk."""


class Progress(NamedTuple):
    """What an observer is told after every chunk: of all the runs trained side by side."""

    step: int
    steps: int
    loss: float
    tokens_per_s: float


@dataclass(frozen=True)
class Cadence:
    """How often the loop comes up for air; no result depends on it.

    Attributes:
      chunk: most steps per compiled call, which is also how often metrics are written.
      checkpoint_s: seconds between checkpoints.
    """

    chunk: int
    checkpoint_s: float = 20.0

    @classmethod
    def of(cls, run: Run) -> "Cadence":
        """Chunks of about 2e12 FLOPs (seconds on a CPU core, blinks on an accelerator), 500 steps at most."""
        return cls(chunk=int(np.clip(2e12 * run.steps / run.flops, 1, 500)))


def train(
    runs: list[Run],
    source: Source,
    directories: list[epath.Path],
    placement: Placement,
    *,
    observe: Callable[[Progress], None] = lambda progress: None,
    stop: Event | None = None,
    cadence: Cadence | None = None,
) -> list[dict[str, Any]]:
    """Trains runs of one program and length side by side, to a result each.

    Args:
      runs: runs that differ in seed and learning rate only; one, unless the placement is a population.
      source: the text named by their `data`.
      directories: a directory a run; made if absent, resumed if it holds checkpoints of this run.
      placement: where to train.
      observe: called after every chunk.
      stop: when set, checkpoints are saved and `Interrupted` is raised.
      cadence: chunk length and checkpoint interval; derived from the runs by default.

    Returns:
      The contents of result.json. A loss that is not finite gives a result with status "diverged".

    Raises:
      UserError: a directory holds another run, the source is another text or a damaged one, or the disk refuses.
      Held, LeaseLost: another worker trains one of the runs, or has taken it over.
    """
    cadence, stop = cadence or Cadence.of(runs[0]), stop or Event()
    steps, tokens_per_step = runs[0].steps, runs[0].tokens_per_step
    began, trained_s = time.monotonic(), 0.0
    for run, directory in zip(runs, directories, strict=True):
        claim(run, source, directory)
    source.check()
    windows = _Windows(runs, source, cadence.chunk)
    with ExitStack() as stack:
        leases = stack.enter_context(Leases(directories))
        found = [record.read_result(directory, run) for run, directory in zip(runs, directories, strict=True)]
        present = [result for result in found if result is not None]
        if len(present) == len(runs):  # another worker has been quicker
            return present
        checkpoints = [stack.enter_context(Checkpoints(directory / "checkpoints")) for directory in directories]
        first, state = _restore(placement, runs, checkpoints)
        for of_run in checkpoints:
            of_run.forget_after(first)
        share = placement.devices / len(runs)
        metrics = [Metrics(directory / "metrics.jsonl", keep_to=first, devices=share) for directory in directories]
        diverged_at = placement.diverged_at(state, runs)
        step, saved_at = first, time.monotonic()
        while step < steps:
            chunk_began = time.monotonic()
            count, window_RSBU = windows.at(step)
            state, histories = placement.train_chunk(state, window_RSBU, count, runs)
            seconds = time.monotonic() - chunk_began
            diverged_at = placement.diverged_at(state, runs)
            trained_s, step = trained_s + seconds, step + count
            leases.check()
            for number, of_run in enumerate(metrics):
                of_run.write(step, {name: values[number, :count] for name, values in histories.items()}, seconds)
            if diverged_at.all():
                break
            loss = float(np.mean(histories["loss"][diverged_at == 0, count - 1]))
            observe(Progress(step, steps, loss, count * tokens_per_step * len(runs) / seconds))
            stopping = stop.is_set() and step < steps
            if stopping or step == steps or time.monotonic() - saved_at > cadence.checkpoint_s:
                for of_run, run_state in zip(checkpoints, placement.unstack(state, runs), strict=True):
                    of_run.save(step, run_state)
                saved_at = time.monotonic()
            if stopping:
                for of_run in checkpoints:
                    of_run.wait()
                raise Interrupted(f"stopped at step {step} of {steps}; start again to go on from there")
        held_out, blocks = source.validation(runs[0].model.context)
        losses = _validation_losses(placement, runs, held_out, state)
        timing = {
            "wall_s": round(time.monotonic() - began, 3),
            "resumed_from_step": first,
            "tokens_per_s": round((step - first) * tokens_per_step * len(runs) / trained_s) if trained_s else None,
            "runs_side_by_side": len(runs),
            "devices": placement.devices,
        }
        leases.check()
        return [
            _finish(
                run,
                directory,
                _Ending(losses[number], blocks, int(diverged_at[number]), source.bytes_per_symbol),
                timing,
            )
            for number, (run, directory) in enumerate(zip(runs, directories, strict=True))
        ]


def claim(run: Run, source: Source, directory: epath.Path) -> None:
    """Makes the run's directory, or checks that it is this run's; raises `UserError` otherwise."""
    if source.id != run.data:
        raise UserError(
            f"run {run.run_id} trains on {run.data.name!r} (sha256 {run.data.sha256[:12]}), "
            f"not on {source.id.name!r} (sha256 {source.id.sha256[:12]}); give the text it was planned with"
        )
    path = directory / "run.json"
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, to_json(run))
    if read_json(path, "remove it to let the run write it anew") != json.loads(canonical_json(run)):
        raise UserError(f"{path} describes another run than {run.run_id}; use another directory")


class _Windows:
    """The windows of each chunk of steps, padded to one shape so that all chunks share a compilation."""

    def __init__(self, runs: list[Run], source: Source, length: int):
        self._runs, self._source, self._length = runs, source, length

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """Steps in the chunk that begins at `step`, and every run's windows, `(R, S, B, U)`."""
        count = min(self._length, self._runs[0].steps - step)
        read = [
            self._source.batches(run.model.context, run.batch, run.seed, first_step=step, steps=count)
            for run in self._runs
        ]
        return count, np.pad(np.stack(read), ((0, 0), (0, self._length - count), (0, 0), (0, 0)))


def _restore(placement: Placement, runs: list[Run], checkpoints: list[Checkpoints]) -> tuple[int, Any]:
    """The newest step that all runs have a readable checkpoint of, and their state there; else the beginning."""
    fresh = placement.initial_state(runs)
    shapes = [jax.tree.map(_abstract, of_run) for of_run in placement.unstack(fresh, runs)]
    common = set.intersection(*(set(of_run.steps()) for of_run in checkpoints))
    for step in sorted(common, reverse=True):
        states = [of_run.read(step, shape) for of_run, shape in zip(checkpoints, shapes, strict=True)]
        readable = [state for state in states if state is not None]
        if len(readable) == len(runs):
            return step, placement.stack(readable)
    if common:
        raise UserError(
            f"no checkpoint in {', '.join(str(of_run.directory) for of_run in checkpoints)} can be read; they were "
            "renamed to unreadable-*: start again to train from the beginning"
        )
    return 0, fresh


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _validation_losses(placement: Placement, runs: list[Run], window_NU: np.ndarray, state: Any) -> np.ndarray:
    """Mean loss of every validation window in nats per token, `float64 (runs, windows)`."""
    count, batch = len(window_NU), runs[0].batch
    padded_NU = np.pad(window_NU, ((0, -count % batch), (0, 0)))  # cut off again below
    losses = placement.evaluate(state, padded_NU.reshape(-1, batch, window_NU.shape[1]), runs)
    return losses.astype(np.float64).reshape(len(runs), -1)[:, :count]


class _Ending(NamedTuple):
    """What is known of one run when its training is over."""

    losses: np.ndarray
    blocks: np.ndarray
    diverged_at: int
    bytes_per_symbol: float


def _finish(run: Run, directory: epath.Path, ending: _Ending, timing: dict[str, Any]) -> dict[str, Any]:
    """Writes and returns the result; a validation loss that is not finite is a divergence as well."""
    loss = loss_se = None
    if not ending.diverged_at and np.isfinite(ending.losses).all():
        loss, loss_se = record.loss_with_error(ending.losses, ending.blocks)
    row = record.result_row(run, loss, loss_se, ending.bytes_per_symbol)
    row["diverged_at_step"] = ending.diverged_at or None
    new = record.result(run, "diverged" if loss is None else "ok", row, timing)
    record.write_result(directory, new, run)
    return new
