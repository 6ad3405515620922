"""Bytes that one run of the paper's ladder writes to object storage, at the pace of a TPU slice: nothing is trained.

    python scripts/bytes_written.py --size 800M --topology v5e:4x4

The lines go through `capscale.train.metrics` as a run's do, to a directory that is taken for a bucket; what is written
there is counted. When a checkpoint is due, `capscale.train.saving` says; its bytes are those of the state's arrays.
Seconds are those of a clock that is set: a chunk takes its FLOPs at 40 % of the slice's peak, a checkpoint its bytes at
--bandwidth, give or take a quarter, and failures come at random (--seed) every --failures hours on average.
"""

import argparse
import tempfile
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import jax
import numpy as np
from etils import epath
from preflight_paper import planned

from capscale.files import write_text
from capscale.sweep.slices import find_slice
from capscale.train.flops import flops_per_token
from capscale.train.loop import LoopIntervals
from capscale.train.metrics import Metrics, read_metrics
from capscale.train.run import Run
from capscale.train.saving import SaveTimer
from capscale.train.segments import INTERVAL_S
from capscale.train.step import Program, initial_state

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


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds that it was set to."""
        return self.now


class Simulated(NamedTuple):
    """A run that was simulated to its end."""

    saves: int
    failures: int
    saving_s: float
    lost_s: float


def simulate(length_s: float, save_s: float, fixed_s: float | None, mtbf_s: float, seed: int) -> Simulated:
    """Trains for so many seconds, with checkpoints as the timer says, and goes on from the newest after a failure."""
    rng, clock = np.random.default_rng(seed), Clock()
    saves = failures = 0
    saving_s = lost_s = done_s = saved_s = 0.0
    timer, fails_at = SaveTimer(fixed_s, now=clock), rng.exponential(mtbf_s)
    while done_s < length_s:
        clock.now += 1.0
        done_s += 1.0
        if clock.now > fails_at:
            failures, lost_s, done_s = failures + 1, lost_s + done_s - saved_s, saved_s
            timer, fails_at = SaveTimer(fixed_s, now=clock), clock.now + rng.exponential(mtbf_s)
        elif timer.is_due or done_s >= length_s:
            took = save_s * rng.uniform(0.75, 1.25)
            timer.begin()
            clock.now += took
            timer.complete()
            saves, saving_s, saved_s = saves + 1, saving_s + took, done_s
    return Simulated(saves, failures, saving_s, lost_s)


def state_bytes(run: Run) -> int:
    """Bytes of the arrays of a checkpoint."""
    state = jax.eval_shape(partial(initial_state, Program.of(run)), jax.ShapeDtypeStruct((), np.int32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def main(given: argparse.Namespace) -> None:
    """Prints the tables, for the log and for checkpoints."""
    slice_ = find_slice(given.topology)
    run = planned(given.size, "int4")
    of_a_step = flops_per_token(run.model) * run.tokens_per_step / (MFU * slice_.peak)
    chunk = LoopIntervals.of(run, peak=slice_.peak).chunk
    length_s, state = run.steps * of_a_step, state_bytes(run)
    save_s = state / (given.bandwidth * 1e9)
    log, written, anew = log_bytes(run.steps, chunk, of_a_step)
    print(
        f"{given.size} on {given.topology}: {run.steps:,} steps of {of_a_step:.2f} s, {length_s / 3600:.1f} hours; "
        f"a checkpoint is {state:,} bytes, and takes {save_s:.1f} s"
    )
    print("| log | bytes |\n| --- | --- |")
    print(f"| as it is in the end | {log:,} |")
    print(f"| as it is written, in segments of {INTERVAL_S:.0f} s | {written:,} |")
    print(f"| written anew at every chunk of {chunk} steps | {anew:,} |")
    print("| checkpoints | number | bytes | share of the time | failures | hours done again |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, fixed_s in (("every 20 s", 20.0), ("every hour", 3600.0), ("by their time", None)):
        found = simulate(length_s, save_s, fixed_s, 3600 * given.failures, given.seed)
        share = found.saving_s / (length_s + found.lost_s + found.saving_s)
        print(
            f"| {name} | {found.saves:,} | {found.saves * state:,} | {share:.2%} | {found.failures} | "
            f"{found.lost_s / 3600:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="800M")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--bandwidth", type=float, default=1.0, help="GB/s that all hosts write together")
    parser.add_argument("--failures", type=float, default=24.0, help="mean hours between failures")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())
