"""metrics.jsonl: one line per chunk of steps, kept in step with the checkpoints."""

import json
import math

import numpy as np
from etils import epath

from capscale.train.files import writing


class Metrics:
    """Appends to `path`; lines after `keep_to`, which a resumed run does again, are dropped on opening."""

    def __init__(self, path: epath.Path, keep_to: int):
        self._path = path
        with writing(path):
            path.write_text("".join(line for line in _whole_lines(path) if json.loads(line)["step"] <= keep_to))

    def write(self, step: int, history: dict[str, np.ndarray], seconds: float) -> None:
        """One line: mean loss (nats per token) and largest gradient norm of the chunk that ended at `step`."""
        loss, grad_norm = float(history["loss"].mean()), float(history["grad_norm"].max())
        line = {
            "step": step,
            "loss": loss if math.isfinite(loss) else None,
            "grad_norm_max": grad_norm if math.isfinite(grad_norm) else None,
            "seconds": round(seconds, 3),
        }
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _whole_lines(path: epath.Path) -> list[str]:
    """Lines of the file, if any; one cut short by a crash is not a line."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
