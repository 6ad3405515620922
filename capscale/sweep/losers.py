"""Early stop of runs that cannot win: which runs are trials of one thing, and how one is held against the others."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from etils import epath

from capscale.errors import UserError
from capscale.storage import is_passing
from capscale.sweep.behind import Finished, Lines, look_steps, verdict
from capscale.sweep.plan import Sweep
from capscale.train.early import Judge, Lost
from capscale.train.metrics import read_metrics
from capscale.train.record import read_result
from capscale.train.run import Run

TUNED = {"learning_rate": 1.0, "b1": 0.9, "b2": 0.95, "weight_decay": 0.1, "clip": 1.0, "eps": 1e-8}
"""Settings of the optimizer that trials differ in, and a value of each.

The schedule is none: runs that differ in its shape are at different places of it at the same step, so that their losses
in the midst do not compare. Nor are other algorithms, which are compared for their own sake, and what comes later.
"""


def setting(run: Run) -> Run:
    """The run with all that is tuned left out: equal for trials of one thing, whatever their seeds."""
    return replace(run, optimizer=replace(run.optimizer, **TUNED), seed=0)


def trials(runs: Sequence[Run]) -> dict[Run, list[Run]]:
    """Runs by what they are trials of, where these have several settings of the optimizer.

    A format, size or length is no trial. Runs that differ in seed alone are one trial, repeated: of them none is better
    than another.

    Raises:
      UserError: there are none; with what would be one.
    """
    found: dict[Run, list[Run]] = defaultdict(list)
    for run in runs:
        found[setting(run)].append(run)
    several = {key: group for key, group in found.items() if len({run.optimizer for run in group}) > 1}
    if not several:
        raise UserError(
            f"--stop-losers: no two of the {len(runs)} runs differ in settings of the optimizer ({', '.join(TUNED)}) "
            "and in nothing else but the seed, so that none is a trial that another one could beat: each is a point of "
            "its own, however bad its format; drop it"
        )
    return several


def by_promise(runs: Sequence[Run]) -> list[Run]:
    """The same runs, those first whose learning rate is in the middle of their trials: others are held against them.

    Of equal promise they stay in their order; runs that are no trials are first.
    """
    groups: dict[Run, list[Run]] = defaultdict(list)
    for run in runs:
        groups[setting(run)].append(run)
    rank: dict[Run, int] = {}
    for group in groups.values():
        rates = sorted({run.optimizer.learning_rate for run in group})
        middle = math.log(rates[(len(rates) - 1) // 2])
        order = sorted(rates, key=lambda rate: abs(math.log(rate) - middle))
        rank |= {run: order.index(run.optimizer.learning_rate) for run in group}
    return sorted(runs, key=lambda run: rank[run])


def judges(sweep: Sweep, out: epath.Path) -> Callable[[Run], Judge | None]:
    """The judge of each run in a sweep, None for runs that are no trials; raises `UserError` where none is."""
    groups = trials(sweep.runs)

    def judge(run: Run) -> Judge | None:
        group = groups.get(setting(run))
        return None if group is None else Trial(run, group, sweep, out)

    return judge


class Trial:
    """The judge of one run: reads what others of its trials have published.

    Only runs that have ended are read of, whose curves do not change any more: who looks, and how often, changes what
    is known, never what it says.

    Args:
      run: to be judged.
      others: trials of the same thing, at all seeds.
      sweep: of all of them.
      out: its directory.
    """

    def __init__(self, run: Run, others: Sequence[Run], sweep: Sweep, out: epath.Path):
        self._run, self._others = run, [other for other in others if other != run]
        self._sweep, self._out = sweep, out
        self._looks, self._at = look_steps(run.steps), 0
        self._finished: dict[int, dict[str, Finished]] = defaultdict(dict)
        self._told: set[str] = set()

    def is_due(self, step: int) -> bool:
        """Of `Judge`: whether another look lies behind a step."""
        passed = [look for look in self._looks if look <= step]
        if not passed or passed[-1] == self._at:
            return False
        self._at = passed[-1]
        return True

    def look(self) -> Lost | None:
        """Of `Judge`. A store that does not answer now is asked at the next look."""
        try:
            self._read()
            own = _lines(self._sweep.directory_of(self._run, self._out))
        except Exception as error:
            if not is_passing(error):
                raise
            return None
        alike = list(self._finished.values())
        return verdict(own, self._finished[self._run.seed], alike, step=self._at, steps=self._run.steps)

    def _read(self) -> None:
        """Results that have come since the last look; one that is damaged is none."""
        for other in self._others:
            if other.run_id in self._told:
                continue
            directory = self._sweep.directory_of(other, self._out)
            try:
                result = read_result(directory, other)
            except UserError as error:
                if is_passing(error):
                    raise
                continue
            if result is not None:
                if (finished := _finished(directory, result)) is not None:
                    self._finished[other.seed][other.run_id] = finished
                self._told.add(other.run_id)


def published(directory: epath.Path, run: Run) -> Finished | None:
    """Curve and loss of a run that has ended well; None for one that has not, or diverged."""
    result = read_result(directory, run)
    return None if result is None else _finished(directory, result)


def _finished(directory: epath.Path, result: Mapping[str, Any]) -> Finished | None:
    return Finished(_lines(directory), result["row"]["loss"]) if result["status"] == "ok" else None


def _lines(directory: epath.Path) -> Lines:
    """Step and loss of each line of a run's metrics; what is no number is none."""
    told = [(line["step"], line.get("loss")) for line in read_metrics(directory / "metrics.jsonl")]
    return [(step, loss if _is_number(loss) else None) for step, loss in told]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
