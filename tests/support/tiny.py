"""The smallest runs that train: a text of random words, a model of width 8, steps of 64 tokens."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import jax
from etils import epath

from capscale.data.corpus import Corpus, byte_corpus
from capscale.models.config import ModelConfig
from capscale.representation import DENSE, Representation, operand
from capscale.train.executor import Executor, Sharded
from capscale.train.loop import Interrupted, LoopIntervals, train
from capscale.train.progress import Progress
from capscale.train.run import Optimizer, Run
from capscale.train.sharding import make_mesh

STEPS = 12
SHORT = LoopIntervals(chunk=3, checkpoint_s=0.0)
"""Metrics and a checkpoint every three steps."""

MODEL = ModelConfig(
    layers=2,
    heads=1,
    width=8,
    vocabulary=96,
    context=16,
    multiple_of=8,
    tied_embeddings=True,
    dtype="float32",
    init_std=0.08,
)
INT4 = Representation(weights=operand("int4"), hadamard=8)


@cache
def text() -> bytes:
    """About 340 KB of random words: two held-out blocks."""
    rng = random.Random(0)
    words = ("".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 8))) for _ in range(62_000))
    return " ".join(words).encode()


@cache
def corpus() -> Corpus:
    return byte_corpus(text(), "tiny")


def run(**changes: Any) -> Run:
    """An int4 run of 12 steps; all that differ in seed, rate or length share one compiled program."""
    base = Run(
        size="tiny",
        model=MODEL,
        tokens=STEPS * 4 * MODEL.context,
        data=corpus().id,
        optimizer=Optimizer(0.02),
        batch=4,
        ladder="tests",
        representation=INT4,
    )
    return replace(base, **changes)


def dense_run(**changes: Any) -> Run:
    return run(representation=DENSE, **changes)


def one_device(run: Run) -> Sharded:
    return Sharded(run, make_mesh(devices=jax.devices()[:1]))


def train_one(run: Run, directory: Path, executor: Executor | None = None, **options: Any) -> dict[str, Any]:
    """The result of a run trained in `directory`."""
    options = {"intervals": SHORT} | options
    (result,) = train([run], corpus(), [epath.Path(directory)], executor or one_device(run), **options)
    return result


def interrupt(
    runs: list[Run], directories: list[Path], executor: Executor, at: int, intervals: LoopIntervals = SHORT
) -> int:
    """Trains until the end of the chunk that reaches step `at`, then stops as Ctrl-C does; the step it stopped at."""
    stop, seen = Event(), []

    def observe(progress: Progress) -> None:
        seen.append(progress.step)
        if progress.step >= at:
            stop.set()

    try:
        paths = [epath.Path(directory) for directory in directories]
        train(runs, corpus(), paths, executor, observe=observe, stop=stop, intervals=intervals)
    except Interrupted:
        return seen[-1]
    raise AssertionError(f"the run ended before it was stopped at step {at}")
