"""Jumps of a loss: how one stands out from the lines of metrics before it."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

BEFORE = 10
"""Lines of metrics that a loss is held against."""
DEVIATIONS, SHARE = 8.0, 0.05
"""A loss jumps where it exceeds the median of the three lines before by so many of the median step from line to line,
and by this share of it: curves that hardly move have small steps."""


def spikes(curve: Sequence[tuple[int, float | None]]) -> list[int]:
    """Steps at which a loss stands out from the lines before it, the first of each jump.

    Args:
      curve: step and loss of each line.

    Example:
      >>> calm = [(step, 5.0 - step / 1000 + 0.01 * (step % 3)) for step in range(50)]
      >>> spikes(calm), spikes([*calm, (50, 9.0), (51, 8.0), *[(step, 4.9) for step in range(52, 60)]])
      ([], [50])
    """
    found: list[int] = []
    before: list[float] = []
    is_high = False
    for step, loss in curve:
        if loss is None:
            continue
        if len(before) == BEFORE:
            usual, level = statistics.median(abs(b - a) for a, b in pairwise(before)), statistics.median(before[-3:])
            was_high, is_high = is_high, loss - level > max(DEVIATIONS * usual, SHARE * abs(level))
            if is_high and not was_high:
                found.append(step)
        if not is_high:  # what stands out is no measure of what comes next
            before = [*before[-BEFORE + 1 :], loss]
    return found


def finite(value: Any) -> float | None:
    """A number of a line; None for what is none, or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
