"""Metrics of a run: one line of JSON per chunk of steps, kept in step with the checkpoints."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from capscale.files import parse_json, write_text, writing
from capscale.storage import appends
from capscale.train.segments import INTERVAL_S, Lines, read, segment

SWITCHED = "switched_at_step"
"""Name of the step from which on more is compressed."""


class Dropped(NamedTuple):
    """Steps of a run that are done again, and the seconds of devices that they had taken."""

    steps: int
    device_s: float


class Metrics:
    """Appends to `path`, or to segments beside it: see `capscale.train.segments`. A context manager.

    Lines after `keep_to`, which a resumed run does again, are dropped on opening, and so are damaged ones. `flush`
    stands ahead of a checkpoint, so that whoever resumes from it finds the lines up to its step.

    Args:
      path: metrics.jsonl of the run's directory.
      keep_to: step that the run goes on from.
      devices: how many the run has to itself, a fraction where runs share one.
      permitted: called before segments are written; raises where another worker has taken over.
      interval_s: seconds that lines may wait where storage cannot append.

    Attributes:
      dropped: what lines after `keep_to` told of.
    """

    def __init__(
        self,
        path: epath.Path,
        keep_to: int,
        devices: float = 1.0,
        *,
        permitted: Callable[[], None] = lambda: None,
        interval_s: float = INTERVAL_S,
    ):
        self._devices, self._permitted = devices, permitted
        with writing(path):
            kept, self.dropped = _kept(path, keep_to)
        self._lines = Lines(path, kept, permitted, interval_s)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None:
            # The last lines before an error say most about it; what stops them is not to hide it.
            with suppress(Exception):
                self._permitted()
                self._lines.flush()
        self._lines.end()

    def write(self, step: int, history: dict[str, np.ndarray], seconds: float) -> dict[str, float]:
        """One line for the chunk that ended at `step`: means over its steps, of gradient norms the largest.

        Under rules that start later also the step, counted from 1, at which one did, where it lies in the chunk.

        Means are over the steps that something was measured at; the loss is at all. Returns what is finite.
        """
        measured = {"loss": float(history["loss"].mean()), "grad_norm_max": float(history["grad_norm"].max())}
        for name in [name for name in history if name not in {"loss", "grad_norm"}]:
            found = history[name][~np.isnan(history[name])]
            told = found.max if name == SWITCHED else found.mean
            measured[name] = float(told()) if len(found) else math.nan
        spent = {"seconds": round(seconds, 3), "device_seconds": round(seconds * self._devices, 3)}
        finite = {name: value for name, value in (measured | spent).items() if math.isfinite(value)}
        self._lines.append(json.dumps({"step": step} | dict.fromkeys(measured) | finite) + "\n")
        return finite

    def flush(self) -> None:
        """Until every line is stored; `UserError` where storage refuses."""
        self._lines.flush()

    def finish(self) -> None:
        """Stores all lines as metrics.jsonl, at the end of the run."""
        self._lines.finish()


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl and of the segments beside it, each step once; damaged ones are left out.

    Example:
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as place:
      ...     path = epath.Path(place) / "metrics.jsonl"
      ...     _ = path.write_text('{"step": 3, "loss": 4.5}\\n')
      ...     _ = segment(path, 1).write_text('{"step": 6, "loss": 4}\\n')
      ...     read_metrics(path)
      [{'step': 3, 'loss': 4.5}, {'step': 6, 'loss': 4}]
    """
    return [found for lines in _sound(path).values() for _, found in lines]


def _sound(path: epath.Path) -> dict[int, list[tuple[bytes, dict[str, Any]]]]:
    """Lines by segment, as they are and what they say. Of a step that stands there twice, the first.

    Steps of one run grow. A second line of a step is of segments that were being made one, or of a worker that went on
    for a moment after another had taken over.
    """
    last, found = -1, {}
    for number, lines in read(path).items():
        found[number] = []
        for line in lines:
            said = _parsed(line)
            if said is not None and said["step"] > last:
                found[number].append((line, said))
                last = said["step"]
    return found


def _kept(path: epath.Path, keep_to: int) -> tuple[dict[int, str], Dropped]:
    """Text of each segment up to a step, and in storage too where that has segments: the last ones go first.

    And what its later lines told of.
    """
    kept, found = {}, _sound(path)
    later = [said for lines in found.values() for _, said in lines if said["step"] > keep_to]
    spent = [said.get("device_seconds") for said in later]
    seconds = sum(each for each in spent if isinstance(each, int | float) and math.isfinite(each))
    dropped = Dropped(max((said["step"] - keep_to for said in later), default=0), round(seconds, 3))
    for number in sorted(found, reverse=True):
        text = b"".join(line for line, said in found[number] if said["step"] <= keep_to).decode()
        place = segment(path, number)
        if text:
            kept[number] = text
        if appends(path):
            continue
        if not text:
            place.unlink(missing_ok=True)
        elif text.encode() != place.read_bytes():
            write_text(place, text)
    return kept, dropped


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Content of a line; None for one that a crash has cut short, or that is damaged."""
    try:
        found = parse_json(line) if line.endswith(b"\n") else None
        return found if isinstance(found, dict) and type(found["step"]) is int else None
    except (ValueError, KeyError):
        return None
