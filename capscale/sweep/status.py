"""Status of a sweep, read from its files alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from etils import epath

from capscale.artifacts import check_result, read_stopped, sweep_listing
from capscale.errors import UserError
from capscale.files import is_there, read_json
from capscale.realised import UNTOLD, Realised
from capscale.sweep.jumps import finite, spikes
from capscale.train.lease import current_lease, holder, is_live
from capscale.train.metrics import read_metrics
from capscale.train.segments import numbers

NOTHING = ("", UNTOLD)
"""Statistics of a run that is not done, or whose weights are dense: no format, and NaN throughout."""
OVER = ("done", "diverged", "stopped early")
"""States of runs that nothing is left to do of."""

State = Literal["done", "diverged", "stopped early", "failed", "running", "started", "to do", "damaged"]


class RunStatus(NamedTuple):
    """One run of a sweep.

    Attributes:
      run_id: its id and the name of its directory.
      state: "done" and "diverged" have a result; "stopped early" could not win, and has none; "running" is held by a
        live worker; "failed" has an error; "started" has steps behind it and nobody at work on it.
      detail: loss, error message, or how far it is.
      device_s: seconds of training times devices behind its steps; steps that were lost and done again count once.
      flops: planned FLOPs of the whole run; None in sweeps that did not record them.
      format: of its weights, with estimator and rotation; empty where it is not done or its weights are dense.
      realised: what its weights tell of themselves, in that case NaN throughout.
      spikes: steps at which its loss jumped, see `capscale.sweep.jumps`.
    """

    run_id: str
    state: State
    detail: str
    device_s: float = 0.0
    flops: float | None = None
    format: str = ""
    realised: Realised = UNTOLD
    spikes: tuple[int, ...] = ()


class FormatStatus(NamedTuple):
    """Realised statistics of the weights of one format, averaged over its finished runs."""

    format: str
    runs: int
    realised: Realised


class DeviceHours(NamedTuple):
    """Time on devices.

    Attributes:
      spent: behind the steps of all runs.
      left: what the unfinished runs need at the mean time per planned FLOP of the finished ones; None before any is.
    """

    spent: float
    left: float | None


def read_status(out: epath.Path) -> list[RunStatus]:
    """The state of every expected run of the sweep in `out`, in its order.

    Raises:
      UserError: `out` holds no sweep.
    """
    path = out / "sweep.json"
    if not is_there(path):
        raise UserError(f"{out} holds no sweep.json; give the --out directory of a sweep")
    remedy = "start the sweep again with another --out"
    found = sweep_listing(out, remedy)
    if not found["runs"]:
        raise UserError(f"{path} lists no runs, or not as it should; {remedy}")
    return [_status(out / "runs" / name, name, found["planned"].get(name, {})) for name in found["runs"]]


def _status(directory: epath.Path, run_id: str, planned: dict[str, Any]) -> RunStatus:
    device_s = 0.0
    try:
        lines = read_metrics(directory / "metrics.jsonl")
        step, device_s = progress(lines)
        state, detail, told = _state(directory, run_id, step, planned)
        jumps = tuple(spikes([(line["step"], finite(line.get("loss"))) for line in lines]))
        return RunStatus(run_id, state, detail, round(device_s, 3), planned.get("flops"), *told, jumps)
    except (UserError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        detail = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        flops = planned.get("flops") if isinstance(planned, dict) else None
        return RunStatus(run_id, "damaged", detail, round(device_s, 3), flops)


def _state(
    directory: epath.Path, run_id: str, step: int, planned: dict[str, Any]
) -> tuple[State, str, tuple[str, Realised]]:
    """State and detail, and of a run that is done what its compressed weights tell."""
    if (result := directory / "result.json").exists():
        remedy = "remove it and start the sweep again"
        found = read_json(result, remedy)
        check_result(result, found, run_id, remedy)
        if found["status"] == "diverged":
            return "diverged", _summary(found["row"]), NOTHING
        return "done", _summary(found["row"]), _told(found["row"])
    how_far = f"{planned['name']}: step {step} of {planned['steps']}" if planned else ""
    lease = current_lease(directory) if directory.exists() else None
    if lease is not None and is_live(lease):
        return "running", ", ".join(filter(None, [how_far, holder(lease)])), NOTHING
    if (stopped := read_stopped(directory, run_id)) is not None:
        name = f"{planned['name']}: " if planned else ""
        return "stopped early", name + str(stopped["words"]).removeprefix("stopped early "), NOTHING
    if (directory / "error.json").exists():
        found = read_json(directory / "error.json", "remove it")
        if found.get("run_id", run_id) != run_id:
            raise UserError(f"{directory / 'error.json'} is of run {found['run_id']!r}, not of {run_id}; remove it")
        return "failed", str(found["error"]), NOTHING
    return ("started", how_far, NOTHING) if numbers(directory / "metrics.jsonl") else ("to do", "", NOTHING)


def progress(lines: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """Newest step in a run's metrics, and the device-seconds of all their lines; damaged lines are passed over."""
    step, device_s = 0, 0.0
    for metrics in lines:
        try:
            step, device_s = metrics["step"], device_s + metrics["device_seconds"]
        except (KeyError, TypeError):
            continue
    return step, device_s


def _summary(row: dict[str, Any]) -> str:
    loss = "diverged" if row["loss"] is None else f"loss {row['loss']:.4f}"
    cache = f", cache {row['cache']}," if row.get("cache") else ""
    gradients = f", gradients {row['gradients']}," if row.get("gradients") else ""
    correction = f", {row['correction']}," if row.get("correction") else ""
    held = f"{row['weights']}/{row['activations']}{gradients}{cache}{correction}"
    return f"{row['model']} {held} seed {row['seed']}: {loss}"


def _told(row: dict[str, Any]) -> tuple[str, Realised]:
    if row["weights"] == "dense":
        return NOTHING
    marks = [row.get("weights_estimator"), f"hadamard {row['hadamard']}" if row.get("hadamard") else None]
    named = ", ".join(mark for mark in marks if mark)
    return f"{row['weights']} [{named}]" if named else row["weights"], Realised.of(row)


def formats(statuses: list[RunStatus]) -> list[FormatStatus]:
    """The formats of compressed weights among the finished runs, in their order, with what these weights tell."""
    groups: dict[str, list[Realised]] = {}
    for status in statuses:
        if status.format:
            groups.setdefault(status.format, []).append(status.realised)
    return [FormatStatus(name, len(told), Realised.mean(told)) for name, told in groups.items()]


def counts(statuses: list[RunStatus]) -> dict[str, int]:
    """Runs per state, in the order of `State`'s values."""
    found = Counter(status.state for status in statuses)
    return {state: found[state] for state in get_args(State)}


def device_hours(statuses: list[RunStatus]) -> DeviceHours:
    """Device-hours spent and left. A run that has ended early tells nothing of the time that a run takes."""
    spent = sum(status.device_s for status in statuses) / 3600
    timed = [status for status in statuses if status.state == "done" and status.flops and status.device_s]
    left = [status for status in statuses if status.state not in OVER]
    if not timed or any(status.flops is None for status in left):
        return DeviceHours(spent, None)
    per_flop = sum(status.device_s for status in timed) / sum(status.flops or 0.0 for status in timed)
    needed = sum(max((status.flops or 0.0) * per_flop - status.device_s, 0.0) for status in left)
    return DeviceHours(spent, needed / 3600)
