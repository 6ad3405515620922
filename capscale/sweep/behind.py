"""The rule by which a run that cannot win is stopped: how far it is behind, and how much can be made up for."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

from capscale.train.early import Lost

Lines = Sequence[tuple[int, float | None]]
"""Last step of each chunk, counted from 1, and its mean loss, None where that was not finite."""

LOOKS = tuple(tenths / 10 for tenths in range(2, 9))
"""Shares of the steps at which a run is looked at: behind the usual warm-up, and while enough is left to be saved."""
WINDOW = 0.1
"""Share of the steps before a look, and before the end, over which losses are averaged."""
FACTOR = 1.0
"""A run has lost when it is behind by more than so many times what the best one still gained: to tie it would have to
gain twice as much from there on. `scripts/judge_stopping.py` measures how often that is wrong."""
SEEN = 2.0
"""Allowed for in proportion: finished runs whose gains differ by more raise the factor to so many times that."""
LEAST = 0.01
"""Runs that are behind by less than this share of the loss are not stopped."""


class Finished(NamedTuple):
    """A run that has ended well: its lines, and the loss on the validation text that decides."""

    lines: Lines
    loss: float


def mean_between(lines: Lines, first: int, last: int) -> float | None:
    """Mean loss of the steps `first + 1` to `last`; None where lines do not tell it.

    A line that reaches over an end of the range counts by its steps inside; one that is longer than the range tells
    too little of it, and so does a gap, or a loss that was not finite.

    Example:
      >>> mean_between([(4, 5.0), (8, 3.0), (12, 1.0)], 6, 12)
      1.6666666666666667
      >>> mean_between([(12, 3.0)], 6, 12) is None
      True
    """
    total, begins = 0.0, 0
    for ends, loss in lines:
        inside = min(ends, last) - max(begins, first)
        if inside > 0:
            if loss is None or ends - begins > last - first:
                return None
            total += loss * inside
        begins = ends
    return total / (last - first) if begins >= last > first else None


def look_steps(steps: int) -> list[int]:
    """Steps at which a run of so many is looked at, each once."""
    return sorted({step for share in LOOKS if 0 < (step := round(share * steps)) < steps})


def gained(lines: Lines, step: int, steps: int) -> float | None:
    """Fall of the loss from a step to the end, both as means over a window; None where lines do not tell."""
    width = max(1, round(WINDOW * steps))
    there, end = mean_between(lines, step - width, step), mean_between(lines, steps - width, steps)
    return None if there is None or end is None else there - end


def allowed(alike: Iterable[Mapping[str, Finished]], step: int, steps: int, factor: float = FACTOR) -> float:
    """The factor, by what finished runs tell: `factor`, more where they made up for more.

    Of two runs of one group, `d_i / d_j - 1` is how far behind, in units of what the other gained, the first may have
    been to end level.

    Args:
      alike: finished runs of the groups of one setting, a group a seed, by their ids.
      step: at which they are compared.
      steps: of each.
      factor: the least.
    """
    most = 0.0
    for group in alike:
        found = [each for run in group.values() if (each := gained(run.lines, step, steps)) is not None]
        most = max([most, *(a / b - 1 for a, b in permutations(found, 2) if b > 0)])
    return max(factor, SEEN * most)


def verdict(
    lines: Lines,
    group: Mapping[str, Finished],
    alike: Iterable[Mapping[str, Finished]],
    *,
    step: int,
    steps: int,
    factor: float = FACTOR,
) -> Lost | None:
    """The reason to stop a run at a step, None to go on.

    It is held against the best finished run of its group, which has seen the same batches: one that has gained nothing
    more, or does not tell, is none to be held against.

    Args:
      lines: of the run, up to the step.
      group: finished runs of other settings at its seed, by their ids.
      alike: see `allowed`; with `group` among them.
      step: one of `look_steps`.
      steps: of each run.
      factor: see `allowed`.
    """
    width = max(1, round(WINDOW * steps))
    own = mean_between(lines, step - width, step)
    best = min(group, key=lambda name: (group[name].loss, name), default=None)
    if own is None or best is None:
        return None
    there, still = mean_between(group[best].lines, step - width, step), gained(group[best].lines, step, steps)
    if there is None or still is None or still <= 0 or own - there <= LEAST * abs(there):
        return None
    factor = allowed(alike, step, steps, factor)
    return Lost(step, steps, own, best, there, still, factor) if own - there > factor * still else None
