"""Output of commands: a screen, a pipe or a file that may refuse."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

BAD_OUTPUT = 2
"""Exit status when what was printed could not be written."""


class Screen:
    """A text stream that never raises: characters that it has not are replaced, what it cannot write is dropped.

    A command is not to end in the midst, with runs half trained, for what it has to say of them.

    Attributes:
      error: the first that writing gave; None so far.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, text: str) -> int:
        """Writes, or remembers why not."""
        return self._tried(self._stream.write, text) or len(text)

    def flush(self) -> None:
        """Flushes, or remembers why not."""
        self._tried(self._stream.flush)

    def _tried(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            self.error = self.error or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close_for_good(self) -> None:
        """Drops buffered output that has nowhere to go: Python would try it again as it ends."""
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


def on_screen(command: Callable[..., int]) -> Callable[..., int]:
    """`command` with its output on a `Screen`.

    Where it could not be written the status is at least `BAD_OUTPUT`; a reader of a pipe that has seen enough is no
    error.
    """

    @functools.wraps(command)
    def shown(*arguments: Any) -> int:
        before = sys.stdout, sys.stderr
        with open(os.devnull, "w") as nowhere:
            # Streams that the caller has closed are None, which not all that print expect.
            screens = [Screen(nowhere if stream is None else stream) for stream in before]
            sys.stdout, sys.stderr = screens  # pyright: ignore[reportAttributeAccessIssue]
            try:
                return _status(command(*arguments), screens[0])
            except SystemExit as end:  # --help, and flags that are none
                end.code = _status(end.code, screens[0])
                raise
            finally:
                screens[1].flush()
                sys.stdout, sys.stderr = before
                for screen in screens:
                    if screen.error is not None:
                        screen.close_for_good()

    return shown


def _status(status: Any, printed: Screen) -> Any:
    printed.flush()
    if printed.error is None or isinstance(printed.error, BrokenPipeError):
        return status
    reason = printed.error.strerror or printed.error
    print(f"capscale: what was printed could not be written ({reason})", file=sys.stderr)
    return status or BAD_OUTPUT
