"""Processes of scripts/device_check.py: what they write within a limit, and their end with all they began."""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator

LOGGED = 20_000  # characters of what a process says to stderr
RUNNING: set["Process"] = set()


class Limit:
    """When a case must be done: within so many seconds of its beginning, and before `end`."""

    def __init__(self, end: float, each: float) -> None:
        self.end, self.each = end, each
        self.again()

    def again(self) -> None:
        """The next case begins."""
        self.case_end = time.monotonic() + self.each

    def at(self) -> float:
        """On the clock of `time.monotonic`."""
        return min(self.end, self.case_end)

    def said(self) -> str:
        """Resources that end where this ends."""
        return f"killed after {self.each:.0f} s" if self.case_end <= self.end else "killed: no time left"


class Process:
    """A command in a session of its own; `log` is given what it said to stderr, at its end."""

    def __init__(self, command: list[str], log: Callable[[str], None]) -> None:
        self._log, self._errors = log, tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, start_new_session=True)
        self._lines, self._rest, self._last = deque[str](), b"", ""
        RUNNING.add(self)

    def tell(self, line: str) -> None:
        """A line to its stdin; to one that has ended, nothing."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def lines(self, limit: Limit, gently: float = 0.0) -> Iterator[str]:
        """Lines that it writes from now on; whoever stops in between may go on later.

        `gently`: so many seconds before the limit it is asked to end, as by Ctrl-C.
        Raises TimeoutError at the limit, ChildProcessError where it ends with a status other than 0 or 1.
        """
        assert self._process.stdout is not None
        descriptor, asked = self._process.stdout.fileno(), False
        while True:
            while self._lines:
                yield self._lines.popleft()
            left = limit.at() - time.monotonic()
            if left <= 0:
                self.end()
                raise TimeoutError(limit.said())
            if gently and not asked and left <= gently:
                os.killpg(self._process.pid, signal.SIGINT)
                asked = True
            if not select.select([descriptor], [], [], min(left, 0.5))[0]:
                continue
            read = os.read(descriptor, 1 << 16)
            if not read:
                break
            *whole, self._rest = (self._rest + read).split(b"\n")
            self._lines.extend(line.decode(errors="replace") for line in whole)
        try:
            status = self._process.wait(timeout=max(0.1, limit.at() - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.end()
            raise TimeoutError(limit.said()) from None
        self.end()
        if status not in (0, 1):
            ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            raise ChildProcessError(f"ended by {ended}: {self._last}")

    def kill(self) -> None:
        """Kills it with all that it began."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kills what is left of it, and logs what it said; once."""
        if self not in RUNNING:
            return
        RUNNING.discard(self)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the driver holds is not waited for
            self._process.wait(timeout=3)
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")[-LOGGED:].strip()
        self._last = text.rpartition("\n")[2][:300]
        self._log(text)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]
