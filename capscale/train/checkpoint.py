"""Checkpoints of a run, kept by orbax."""

import gc
import hashlib
import itertools
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax import Array

from capscale.artifacts import check_seal, sealed
from capscale.errors import Unavailable, UserError
from capscale.files import refuse_link, writing
from capscale.storage import check_checkpoints, is_object_storage, may_pass
from capscale.train.checkpoint_errors import is_damage
from capscale.train.distributed import all_or_none, is_first
from capscale.train.unmarked import settle_unmarked

KEPT = 2
"""Checkpoints kept: the newest, and one to fall back to."""

_ONE_AT_A_TIME = threading.RLock()
"""Held while orbax works, and while what it leaves is kept off the screen. It numbers its operations for the process as
a whole, so that saves in two threads, of two directories, take each other's signals: they failed on each other's names,
or waited for ever."""


class Checkpoints:
    """The checkpoints in one directory, by step; a context manager that waits for pending saves on exit.

    With `background`, a save returns as soon as the state is copied; what stops it is raised by the next call. Only for
    processes that train one run at a time.

    `run_id`: whose they are. Each says so, beside its arrays and in their fingerprints. Those of earlier versions do
    not, and are taken to be the run's; without a `run_id` nobody asks.

    Raises `UserError` for a directory that is a link, or that holds one: see `capscale.files.refuse_link`.
    """

    def __init__(self, directory: epath.PathLike, background: bool = False, *, run_id: str | None = None):
        refuse_link(directory)
        self.directory, self._run_id = _place(epath.Path(directory)), run_id
        if not is_object_storage(self.directory) and self.directory.is_dir():
            for path in self.directory.iterdir():
                refuse_link(path)
        marks = is_object_storage(self.directory)
        if marks:
            with all_or_none():
                if is_first():
                    settle_unmarked(self.directory, self._rename)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, cleanup_tmp_directories=not marks, enable_async_checkpointing=background
        )
        with self._saving():
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        with self._saving():
            self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Saves `state`; it becomes visible under its step when it is complete."""
        if step not in self._manager.all_steps():
            with self._saving():
                saved = {"state": state, "fingerprints": _fingerprints(state) ^ _mark(self._run_id)}
                whose = None if self._run_id is None else sealed({"run_id": self._run_id})
                self._manager.save(step, args=ocp.args.StandardSave(saved), custom_metadata=whose)

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is still being written in the background."""
        return self._manager.is_saving_in_progress()

    def wait(self) -> None:
        """Until every save that was started is on disk; raises what stopped one."""
        with self._saving():
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def check_owner(self) -> None:
        """Raises `UserError`, in every process alike, where one of the checkpoints says that it is another run's."""
        with _ONE_AT_A_TIME, all_or_none():
            for step in self.steps():
                try:
                    with self._reading(step), self._restoring() as manager:
                        owner = _owner(manager, step)
                except _Damaged:
                    continue  # which reading it will tell
                if owner not in (None, self._run_id):
                    raise UserError(
                        f"checkpoint {self._of(step)} is of run {owner}, not of {self._run_id}: it was copied here; "
                        "move it back, or remove it to go on without it"
                    )

    def forget_after(self, step: int) -> None:
        """Deletes checkpoints of later steps: while one is there, no earlier one would be saved."""
        for later in self.steps():
            if later > step:
                with self._saving():
                    self._manager.delete(later)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns what stops a save, now or in a thread before, into a `UserError` that names the directory."""
        try:
            with _ONE_AT_A_TIME:
                yield
        except Exception as error:  # orbax and tensorstore raise many types for a full or read-only disk
            raise self._kind(error)(
                f"checkpoint in {self.directory} cannot be saved ({_reason(error)}); "
                "free space, fix permissions or choose another --out"
            ) from error

    def read(self, step: int, abstract_state: Any) -> Any | None:
        """The state saved at `step`, its arrays placed as in `abstract_state` (shapes, dtypes, shardings).

        A checkpoint that is damaged is named in a warning and gives None, in every process alike; see `set_aside`.
        Raises `UserError`, in every process alike too, for what hinders reading and is no sign of damage.
        """
        # Log filters belong to the process, and each caller restores what it found: one thread at a time.
        with _ONE_AT_A_TIME, _leftovers_unheard():
            state, reason = self._try(step, abstract_state)
            if reason is not None:
                gc.collect()
        if reason is not None:
            warnings.warn(f"checkpoint {self._of(step)} cannot be read ({reason}); it is set aside", stacklevel=2)
        return state

    def _try(self, step: int, abstract_state: Any) -> tuple[Any | None, str | None]:
        """The state saved at `step`, or None and how it is damaged."""
        elsewhere = _Damaged("another process says how")
        try:
            with all_or_none(elsewhere), self._reading(step):
                saved, marks = self._restore_alone(step, abstract_state)
            with self._reading(step):  # all add them up together: who fails at it ends, for the others to notice
                found = _fingerprints(saved["state"])
            with all_or_none(elsewhere):
                if not any(np.array_equal(saved["fingerprints"], found ^ mark) for mark in marks):
                    raise _Damaged("its numbers are not those that were saved")
            return saved["state"], None
        except _Damaged as damage:
            return None, str(damage)

    def _restore_alone(self, step: int, abstract_state: Any) -> tuple[Any, list[np.uint32]]:
        """Items that orbax reads of `step` in this process, and the marks that its fingerprints may bear."""
        expected = np.zeros(len(jax.tree.leaves(abstract_state)), np.uint32)
        abstract = {"state": abstract_state, "fingerprints": expected}
        with self._restoring() as manager:
            whose = self._run_id or _owner(manager, step)
            return manager.restore(step, args=ocp.args.StandardRestore(abstract)), [_mark(whose), _mark(None)]

    def _restoring(self) -> ocp.CheckpointManager:
        """Reads in this process alone. It does not wait for the others: one of them may have failed."""
        here = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here}),
        )
        return ocp.CheckpointManager(self.directory, options=options)

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns what a reading raises into `_Damaged`, or into a `UserError` where it is no sign of damage."""
        try:
            yield
        except Exception as error:  # orbax, tensorstore and XLA raise many types
            if is_damage(error):
                raise _Damaged(_reason(error)) from error
            raise self._kind(error)(
                f"checkpoint {self._of(step)} cannot be read now ({_reason(error)}) and was left as it is; see to the "
                "memory, the permissions or the storage and start again, or remove it to go on without it"
            ) from error

    def _kind(self, error: Exception) -> type[UserError]:
        """Type of what is raised for an error of a save or a reading: whether it may pass by itself."""
        return Unavailable if is_object_storage(self.directory) and may_pass(error) else UserError

    def set_aside(self, step: int) -> None:
        """Renames the checkpoint of `step` to `unreadable-<step>`, or `...-2` where one is: it is not tried again."""
        with all_or_none():
            if is_first():
                self._rename(self._of(step))
        self._manager.reload()

    def _rename(self, path: epath.Path) -> None:
        names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        aside = (self.directory / f"unreadable-{path.name}{name}" for name in names)
        with writing(path):
            path.rename(next(path for path in aside if not path.exists()))

    def _of(self, step: int) -> epath.Path:
        return self.directory / str(step)


def _place(directory: epath.Path) -> epath.Path:
    """The absolute path that orbax wants; of object storage it knows Google's alone."""
    check_checkpoints(directory)
    # Resolved, the path of an object would be a place on this machine.
    return directory if is_object_storage(directory) else directory.resolve()


class _Damaged(Exception):
    """A checkpoint does not read back whole; says how."""


def _owner(manager: ocp.CheckpointManager, step: int) -> str | None:
    """The run that a checkpoint says it is of; None where it does not say, or not as it was written."""
    said = manager.metadata(step).custom_metadata or {}
    try:
        check_seal("", said, "")
    except UserError:
        return None
    return said["run_id"]


def _mark(run_id: str | None) -> np.uint32:
    """Marks that fingerprints are combined with, so that arrays belong to one run; 0 in earlier versions."""
    return np.uint32(0 if run_id is None else int(hashlib.sha256(run_id.encode()).hexdigest()[:8], 16))


@contextmanager
def _leftovers_unheard() -> Iterator[None]:
    """Keeps off the screen what orbax leaves of a reading that failed.

    It reads arrays side by side and stops at the first that fails. The others tell of their own ends when they are
    collected: pages of tracebacks in asyncio's log, and a warning for each that was never begun.
    """
    log = logging.getLogger("asyncio")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*was never awaited", RuntimeWarning)
            yield
    finally:
        log.setLevel(level)


def _reason(error: Exception) -> str:
    """The message on one line, its middle left out when it is long: what failed comes first, and why comes last."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-140:]}"


def _fingerprints(state: Any) -> np.ndarray:
    """One number a leaf, `uint32 (leaves,)`. What orbax stores of small arrays has no checksum of its own."""
    return np.array([np.asarray(_fingerprint(leaf)) for leaf in jax.tree.leaves(state)], np.uint32)


@jax.jit
def _fingerprint(leaf: Array) -> Array:
    """Sum of the values' bits, each weighed by its place: a flipped bit always shows, and sharding changes nothing."""
    bits = leaf if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    place = jnp.arange(leaf.size, dtype=jnp.uint32).reshape(leaf.shape)
    return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
