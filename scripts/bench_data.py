"""Tokens per second of reading token shards, beside what the smallest model of the micro ladder consumes.

    python scripts/bench_data.py                 # shards of random tokens in a temporary directory
    python scripts/bench_data.py --shards DIR    # made by `capscale data prepare`
    python scripts/bench_data.py --json

Batches are read as training reads them, `--steps` steps a call: 64 x 256 (micro ladder) and 512 x 512 (paper). "Cold"
means that the operating system was asked to forget the files just before. The step is that of micro-16, dense, batch
64 x 256, on the devices of this machine; its time is the median of `--train-steps` after two of warm-up. Medians of
three reads.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from about import about
from etils import epath

from capscale.data.manifest import Manifest, Shard
from capscale.data.shards import Shards
from capscale.data.tokenize import save_shard
from capscale.data.tokenizer import TokenizerId

SHAPES = ((64, 256), (512, 512))
VOCABULARY, SHARD, COUNT = 32_000, 1 << 25, 4
SMALLEST = "micro-16"
"""Of the micro ladder: the size that takes most tokens a second."""


def random_shards(directory: Path) -> None:
    """134 million random tokens in four shards of the largest size."""
    random = np.random.default_rng(0)
    shards = []
    for name in (*(f"train-{number:05d}-000.npy" for number in range(COUNT)), "validation.npy"):
        tokens = random.integers(3, VOCABULARY, SHARD, dtype=np.uint16)
        shards.append(Shard(name, SHARD, 1, SHARD, **save_shard(epath.Path(directory / name), tokens)))
    identity = TokenizerId("sentencepiece", "random", "", VOCABULARY, 1, 2)
    Manifest("random", "uint16", identity, {}, tuple(shards[:-1]), shards[-1], {}, {}).write(epath.Path(directory))


def forget(directory: Path) -> None:
    """Asks the operating system to drop the files' pages from memory, where it can be asked."""
    for path in directory.glob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(directory: Path, batch: int, context: int, steps: int, *, cold: bool) -> float:
    """Tokens per second of a call for some steps, at a place no call has read before."""
    speeds = []
    for attempt in range(3):
        if cold:
            forget(directory)
        shards = Shards(epath.Path(directory))
        shards.batches(context, batch, 0, 10**6, 1)  # opens the files
        began = time.perf_counter()
        found = shards.batches(context, batch, 0, (attempt + 3 * cold) * steps, steps)
        speeds.append(found[..., 1:].size / (time.perf_counter() - began))
    return statistics.median(speeds)


def consumed(steps: int) -> tuple[float, str]:
    """Tokens per second that training the smallest model takes, and the device."""
    import jax

    from capscale.data.corpus import DataId
    from capscale.models.ladder import MICRO
    from capscale.train.executor import Sharded
    from capscale.train.run import Optimizer, Run
    from capscale.train.sharding import make_mesh

    batch = MICRO.batch
    model = MICRO.model(SMALLEST, 257)
    rate = MICRO.learning_rates[SMALLEST]
    tokens = batch * model.context
    run = Run(SMALLEST, model, 100 * tokens, DataId("random", "", 257), Optimizer(rate), batch, "micro")
    executor = Sharded(run, make_mesh())
    state = executor.initial_state([run])
    random = np.random.default_rng(0)
    window_RSBU = random.integers(0, 257, (1, 1, batch, model.context + 1), dtype=np.uint16)
    times = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        state, histories = executor.train_chunk(state, window_RSBU, 1, [run])
        float(histories["loss"][0, 0])
        times.append(time.perf_counter() - began)
    return tokens / statistics.median(times[2:]), f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--train-steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked, begun = parser.parse_args(), about("jax", "grain")
    with tempfile.TemporaryDirectory() as temporary:
        directory = asked.shards or Path(temporary)
        if asked.shards is None:
            random_shards(directory)
        rows = [
            {"batch": batch, "context": context, "cold": cold, "tokens_per_s": reading(directory, *shape, cold=cold)}
            for batch, context in SHAPES
            for cold in (False, True)
            for shape in [(batch, context, max(2, asked.steps * 64 // batch))]
        ]
    training, device = consumed(asked.train_steps)
    if asked.json:
        found = {"reading": rows, SMALLEST: {"tokens_per_s": training, "device": device}}
        print(json.dumps({**begun, **found}, indent=1))
        return
    for row in rows:
        kind = "cold" if row["cold"] else "warm"
        speed = row["tokens_per_s"]
        print(f"read {row['batch']} x {row['context']}, {kind}: {speed / 1e6:.2f} M tokens/s, {speed / training:.1f} x")
    print(f"train {SMALLEST} on {device}: {training / 1e6:.3f} M tokens/s")


if __name__ == "__main__":
    main()
