"""The cases of device_rehearsal.py, compiled first and held, as those that are timed are."""

from collections.abc import Callable
from functools import partial
from typing import Any

import device_rehearsal


def prepare(case: str, row: dict[str, Any]) -> Callable[[], None]:
    """Program that runs the case."""
    if case == "cannot be compiled":
        raise ValueError("no such instruction")
    return partial(device_rehearsal.run, case, row)
