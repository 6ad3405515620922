"""Checkpoints of a run, kept by orbax."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from capscale.errors import UserError

KEPT = 2
"""Checkpoints kept: the newest, and one to fall back to."""


class Checkpoints:
    """The checkpoints in one directory, by step; a context manager that waits for pending saves on exit."""

    def __init__(self, directory: epath.PathLike):
        self.directory = epath.Path(directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, cleanup_tmp_directories=True)
        with self._saving():
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        with self._saving():
            self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Starts saving `state`; it becomes visible under its step when it is complete."""
        if step not in self._manager.all_steps():
            with self._saving():
                self._manager.save(step, args=ocp.args.StandardSave(state))

    def wait(self) -> None:
        """Until every save that was started is on disk; raises what stopped one."""
        with self._saving():
            self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

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
            yield
        except Exception as error:  # orbax and tensorstore raise many types for a full or read-only disk
            raise UserError(
                f"checkpoint in {self.directory} cannot be saved ({_reason(error)}); "
                "free space, fix permissions or choose another --out"
            ) from error

    def read(self, step: int, abstract_state: Any) -> Any | None:
        """The state saved at `step`, its arrays placed as in `abstract_state` (shapes, dtypes, shardings).

        A checkpoint that does not read back whole is named in a warning, renamed to `unreadable-<step>`,
        and gives None.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract_state))
        except Exception as error:  # orbax and tensorstore raise many types for a damaged file
            reason = _reason(error)
            (self.directory / str(step)).rename(self.directory / f"unreadable-{step}")
            self._manager.reload()
        warnings.warn(
            f"checkpoint {self.directory / str(step)} cannot be read ({reason}); it is set aside", stacklevel=2
        )
        return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
