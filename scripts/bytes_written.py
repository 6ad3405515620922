"""Bytes that one run of the paper's ladder writes to object storage, at the pace of a TPU slice: nothing is trained.

    python scripts/bytes_written.py --size 800M --topology v5e:4x4

The lines go through `capscale.train.metrics` as a run's do, to a directory that is taken for a bucket; what is written
there is counted. Seconds are those of the simulation: a chunk takes its FLOPs at 40 % of the slice's peak.
"""

import argparse
import tempfile
from unittest.mock import patch

import numpy as np
from etils import epath
from preflight_paper import planned

from capscale.files import write_text
from capscale.sweep.slices import find_slice
from capscale.train.flops import flops_per_token
from capscale.train.loop import LoopIntervals
from capscale.train.metrics import Metrics, read_metrics
from capscale.train.segments import INTERVAL_S

MFU = 0.4
"""Share of the peak that is assumed."""


def log_bytes(steps: int, chunk: int, step_s: float) -> tuple[int, int, int]:
    """Bytes of a run's log: as it is in the end, as it is written in segments, and with a file anew for each line."""
    written, anew, log = 0, 0, 0

    def count(path: epath.Path, text: str) -> bool:
        nonlocal written
        written += len(text)
        return write_text(path, text)

    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as place,
        patch("capscale.train.segments.appends", return_value=False),
        patch("capscale.train.metrics.appends", return_value=False),
        patch("capscale.train.segments.write_text", count),
    ):
        path = epath.Path(place) / "metrics.jsonl"
        with Metrics(path, keep_to=0, devices=16, interval_s=1e9) as metrics:
            waited = 0.0
            for step in range(chunk, steps + 1, chunk):
                loss, norm = rng.normal(3, 0.1, chunk), rng.normal(1, 0.1, chunk)
                metrics.write(step, {"loss": loss.astype(np.float32), "grad_norm": norm.astype(np.float32)}, step_s)
                waited += chunk * step_s
                if waited >= INTERVAL_S:  # as the thread would
                    metrics.flush()
                    waited = 0.0
            metrics.finish()
        for line in path.read_bytes().splitlines(keepends=True):
            log += len(line)
            anew += log
        assert len(read_metrics(path)) == steps // chunk
    return log, written, anew


def main(size: str, topology: str) -> None:
    """Prints the table."""
    slice_ = find_slice(topology)
    run = planned(size, "int4")
    of_a_step = flops_per_token(run.model) * run.tokens_per_step / (MFU * slice_.peak)
    chunk = LoopIntervals.of(run, peak=slice_.peak).chunk
    log, written, anew = log_bytes(run.steps, chunk, of_a_step)
    print(f"{size} on {topology}: {run.steps:,} steps of {of_a_step:.2f} s, {run.steps * of_a_step / 3600:.1f} hours")
    print("| written | bytes |\n| --- | --- |")
    print(f"| the log, as it is in the end | {log:,} |")
    print(f"| the log, in segments of {INTERVAL_S:.0f} s | {written:,} |")
    print(f"| the log, written anew at every chunk of {chunk} steps | {anew:,} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="800M")
    parser.add_argument("--topology", default="v5e:4x4")
    given = parser.parse_args()
    main(given.size, given.topology)
