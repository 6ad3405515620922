"""An end to waits for processes: generous, so that only what hangs meets it."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LIMIT_S = 300


@contextmanager
def killed_late(process: subprocess.Popen, seconds: float = LIMIT_S) -> Iterator[None]:
    """Kills a process that has not ended by then: whoever waits for it or reads from it goes on, and fails."""
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        yield
    finally:
        late.cancel()
