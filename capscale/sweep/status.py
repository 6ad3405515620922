"""What has been done of a sweep, read from its files alone."""

from collections import Counter
from typing import Any, Literal, NamedTuple

from etils import epath

from capscale.errors import UserError
from capscale.files import read_json

State = Literal["done", "diverged", "failed", "started", "to do", "damaged"]


class RunStatus(NamedTuple):
    """One run of a sweep.

    Attributes:
      run_id: its id and the name of its directory.
      state: "done" and "diverged" have a result; "failed" has an error; "started" has a checkpoint or metrics.
      detail: loss, error message or nothing.
    """

    run_id: str
    state: State
    detail: str


def read_status(out: epath.Path) -> list[RunStatus]:
    """The state of every expected run of the sweep in `out`, in its order.

    Raises:
      UserError: `out` holds no sweep.
    """
    path = out / "sweep.json"
    if not path.exists():
        raise UserError(f"{out} holds no sweep.json; give the --out directory of a sweep")
    expected = read_json(path, "start the sweep again with another --out").get("runs")
    if not isinstance(expected, list):
        raise UserError(f"{path} lists no runs; start the sweep again with another --out")
    return [_state(out / "runs" / run_id, run_id) for run_id in expected]


def _state(directory: epath.Path, run_id: str) -> RunStatus:
    try:
        if (directory / "result.json").exists():
            found = read_json(directory / "result.json", "remove it to train this run again")
            return RunStatus(run_id, "diverged" if found["status"] == "diverged" else "done", _summary(found["row"]))
        if (directory / "error.json").exists():
            return RunStatus(run_id, "failed", str(read_json(directory / "error.json", "remove it")["error"]))
    except (UserError, KeyError, TypeError, ValueError) as error:
        return RunStatus(
            run_id, "damaged", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        )
    return RunStatus(run_id, "started" if (directory / "metrics.jsonl").exists() else "to do", "")


def _summary(row: dict[str, Any]) -> str:
    loss = "diverged" if row["loss"] is None else f"loss {row['loss']:.4f}"
    return f"{row['model']} {row['weights']}/{row['activations']} seed {row['seed']}: {loss}"


def counts(statuses: list[RunStatus]) -> dict[str, int]:
    """Runs per state, in the order of `State`'s values."""
    found = Counter(status.state for status in statuses)
    return {state: found[state] for state in ("done", "diverged", "failed", "started", "to do", "damaged")}
