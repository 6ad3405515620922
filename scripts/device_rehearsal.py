"""Cases that succeed, fail, crash and hang, in place of those that need a chip: they try device_check.py itself."""

import os
import signal
import time
from typing import Any

from device_plan import Wrong


def run(case: str, row: dict[str, Any]) -> None:
    """Name of the case."""
    row["measured"] = 1.0
    if case == "fails":
        raise Wrong("1 of 4 values differ, 0 may")
    if case == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == "hangs":
        time.sleep(3600)
