"""Checkpoints of a run, kept by orbax."""

import warnings
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

KEPT = 2
"""Checkpoints kept: the newest, and one to fall back to."""


class Checkpoints:
    """The checkpoints in one directory, by step; a context manager that waits for pending saves on exit."""

    def __init__(self, directory: epath.PathLike):
        self.directory = epath.Path(directory)
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Starts saving `state`; it becomes visible under its step when it is complete."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def wait(self) -> None:
        """Until every save that was started is on disk; raises what stopped one."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def read(self, step: int, abstract_state: Any) -> Any | None:
        """The state saved at `step`, its arrays placed as in `abstract_state` (shapes, dtypes, shardings).

        A checkpoint that does not read back whole is named in a warning, renamed to `unreadable-<step>`,
        and gives None.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract_state))
        except Exception as error:  # orbax and tensorstore raise many types for a damaged file
            reason = " ".join(str(error).split())[:200]
            (self.directory / str(step)).rename(self.directory / f"unreadable-{step}")
            self._manager.reload()
        warnings.warn(
            f"checkpoint {self.directory / str(step)} cannot be read ({reason}); it is set aside", stacklevel=2
        )
        return None
