"""How a sweep went so far: curves, speed, starts and what was done again, read from its files alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from etils import epath

from capscale.artifacts import sweep_listing
from capscale.errors import UserError
from capscale.files import read_json_if_there
from capscale.storage import children
from capscale.sweep.jumps import finite
from capscale.sweep.status import OVER, RunStatus, read_status
from capscale.train.journal import read_journals
from capscale.train.metrics import read_metrics

READERS = 16
"""Threads that read runs: of a store each file takes a request, most of it waiting."""


class RunHistory(NamedTuple):
    """How a run went.

    Attributes:
      status: as `capscale.sweep.status` has it.
      name: size, format and seed, where the sweep tells them.
      size: the first word of that.
      steps: planned steps; 0 where the sweep does not tell.
      curve: step and mean loss of each line of its metrics; a loss that was not finite is None.
      tokens_per_s: in its latest line; None before there is one.
      starts: how often a worker began it.
      again_device_s: device-seconds behind steps that were done again.
      spikes: steps at which the loss jumped, see `capscale.sweep.jumps`.
      said: its latest start: what it began with, and how it ended.
    """

    status: RunStatus
    name: str
    size: str
    steps: int
    curve: list[tuple[int, float | None]]
    tokens_per_s: float | None
    starts: int
    again_device_s: float
    spikes: list[int]
    said: str


class Totals(NamedTuple):
    """Sums over a sweep.

    Attributes:
      runs, done: how many there are, and how many have a result or were stopped early.
      device_h: hours of devices behind steps that count.
      again_h: behind steps that were done again.
      goodput: the former as a share of both; None before a step is done.
      starts: of all runs.
      retries: starts beyond the first of each run.
      tokens_per_s: of the runs that are under way.
    """

    runs: int
    done: int
    device_h: float
    again_h: float
    goodput: float | None
    starts: int
    retries: int
    tokens_per_s: float


def read_history(out: epath.Path) -> list[RunHistory]:
    """Every expected run of the sweep in `out`, in its order; raises `UserError` where there is no sweep."""
    statuses = read_status(out)
    planned = sweep_listing(out, "start the sweep again with another --out")["planned"]
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda status: _history(out, status, planned.get(status.run_id, {})), statuses))


def totals(histories: Sequence[RunHistory]) -> Totals:
    """Sums over the runs of a sweep."""
    spent = sum(each.status.device_s for each in histories)
    again = sum(each.again_device_s for each in histories)
    return Totals(
        runs=len(histories),
        done=sum(each.status.state in OVER for each in histories),
        device_h=spent / 3600,
        again_h=again / 3600,
        goodput=spent / (spent + again) if spent + again else None,
        starts=sum(each.starts for each in histories),
        retries=sum(max(0, each.starts - 1) for each in histories),
        tokens_per_s=sum(each.tokens_per_s or 0.0 for each in histories if each.status.state == "running"),
    )


def _history(out: epath.Path, status: RunStatus, planned: dict[str, Any]) -> RunHistory:
    directory = out / "runs" / status.run_id
    name = str(planned.get("name", ""))
    steps = planned.get("steps")
    try:
        lines = read_metrics(directory / "metrics.jsonl")
        journals = read_journals(directory) if _is_directory(directory) else []
        described = read_json_if_there(directory / "run.json", "") or {}
    except (UserError, OSError):  # which its status tells
        lines, journals, described = [], [], {}
    curve = [(line["step"], finite(line.get("loss"))) for line in lines]
    again = [finite(start[0].get("again_device_seconds")) or 0.0 for start in journals if start]
    return RunHistory(
        status=status,
        name=name,
        size=name.partition(" ")[0],
        steps=steps if isinstance(steps, int) else 0,
        curve=curve,
        tokens_per_s=_speed(lines, described),
        starts=len(journals),
        again_device_s=sum(again),
        spikes=list(status.spikes),
        said=_said(journals),
    )


def _is_directory(path: epath.Path) -> bool:
    try:
        return bool(children(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _speed(lines: list[dict[str, Any]], described: dict[str, Any]) -> float | None:
    """Tokens a second in the last line; the first one of a start is compiled in its time."""
    if not lines:
        return None
    try:
        tokens = described["batch"] * described["model"]["context"]
        steps = lines[-1]["step"] - (lines[-2]["step"] if len(lines) > 1 else 0)
        return tokens * steps / lines[-1]["seconds"]
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _said(journals: list[list[dict[str, Any]]]) -> str:
    if not journals or not journals[-1]:
        return ""
    first, last = journals[-1][0], journals[-1][-1]
    began = f"start {len(journals)} on {first.get('host', 'an unknown host')} from step {first.get('step', 0)}"
    if last is first:
        return f"{began}, no end told"
    error = f": {last['error']}" if last["event"] == "failed" and last.get("error") else ""
    return f"{began}, {last['event']} at step {last.get('step')}{error}"
