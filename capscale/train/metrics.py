"""metrics.jsonl: one line per chunk of steps, kept in step with the checkpoints."""

import json
import math

import numpy as np
from etils import epath

from capscale.files import is_object_storage, parse_json, write_text, writing


class Metrics:
    """Appends to `path`; lines after `keep_to`, which a resumed run does again, are dropped on opening,
    and so are damaged ones.

    Object storage cannot append: there the file is written anew with every line.

    `devices`: how many the run has to itself, a fraction where runs share one.
    """

    def __init__(self, path: epath.Path, keep_to: int, devices: float = 1.0):
        self._path, self._devices = path, devices
        with writing(path):
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        self._text = "".join(line.decode() for line in lines if _step(line) <= keep_to)
        write_text(path, self._text)

    def write(self, step: int, history: dict[str, np.ndarray], seconds: float) -> dict[str, float]:
        """One line for the chunk that ended at `step`: means over its steps, of gradient norms the largest.

        Means are over the steps that something was measured at; the loss is at all. Returns what is finite.
        """
        measured = {"loss": float(history["loss"].mean()), "grad_norm_max": float(history["grad_norm"].max())}
        for name in [name for name in history if name not in {"loss", "grad_norm"}]:
            found = history[name][~np.isnan(history[name])]
            measured[name] = float(found.mean()) if len(found) else math.nan
        spent = {"seconds": round(seconds, 3), "device_seconds": round(seconds * self._devices, 3)}
        finite = {name: value for name, value in (measured | spent).items() if math.isfinite(value)}
        self._append(json.dumps({"step": step} | dict.fromkeys(measured) | finite) + "\n")
        return finite

    def _append(self, line: str) -> None:
        if is_object_storage(self._path):
            self._text += line
            write_text(self._path, self._text)
        else:
            with writing(self._path), self._path.open("a") as file:
                file.write(line)


def _step(line: bytes) -> float:
    """Step of a line; infinity for one that a crash has cut short, or that is damaged."""
    try:
        step = parse_json(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return math.inf
    return step if isinstance(step, int) else math.inf
