"""Kills a run again and again, at random moments of every phase, and checks that its numbers do not change by a bit.

A run of 60 steps, metrics and a checkpoint every third, is killed with SIGKILL while it reads data, does a step, saves,
and writes its result, and started again each time. In the end its result row, its metrics and every number of its last
checkpoint must be those of the same run without a disturbance.

Run: `python scripts/kill_test.py --kills 20 --out DIR`
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from capscale.data.corpus import Corpus, DataId
from capscale.models.ladder import Ladder
from capscale.representation import Representation, operand
from capscale.train import record
from capscale.train.checkpoint import Checkpoints
from capscale.train.executor import Sharded
from capscale.train.loop import LoopIntervals
from capscale.train.run import Optimizer, Run

PHASES = ("read", "step", "save", "result")
STEPS, SIZE = 60, "nano-8"
LOG = "CAPSCALE_KILL_TEST_LOG"


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """The experiment: one short run."""
    model = ladder.model(SIZE, data.vocabulary)
    representation = Representation(operand("int4"), hadamard=8)
    tokens = STEPS * 8 * model.context
    return [Run(SIZE, model, tokens, data, Optimizer(0.02), 8, ladder.name, representation)]


def tell(phase: str, owner: Any, name: str) -> None:
    """Makes `owner.name` write a line to the log when it begins."""
    real = getattr(owner, name)

    def told(*args: Any, **kwargs: Any) -> Any:
        with open(os.environ[LOG], "a") as file:
            file.write(f"{phase}\n")
        return real(*args, **kwargs)

    setattr(owner, name, told)


if LOG in os.environ:  # in the process that trains
    cast(Any, LoopIntervals).of = lambda run, background=False, **_: LoopIntervals(3, 0.0, background)
    tell("read", Corpus, "batches")
    tell("step", Sharded, "train_chunk")
    tell("save", Checkpoints, "save")
    tell("result", record, "write_result")


def start(out: Path, text: Path, log: Path) -> subprocess.Popen[str]:
    """A process that trains the run in `out`."""
    command = "import sys; from capscale.cli import main; sys.exit(main())"
    arguments = ["run", __file__, "--index", "0", "--out", str(out), "--text", str(text)]
    log.write_text("")
    environment = {**os.environ, LOG: str(log), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments], env=environment, stdout=-1, stderr=-1, text=True
    )


def kill_at(process: subprocess.Popen[str], log: Path, phase: str, number: int, *, delay: float, until: float) -> bool:
    """Kills the process `delay` seconds after it began `phase` for the `number`-th time; False if it ended before."""
    while process.poll() is None and time.monotonic() < until:
        if log.read_text().split().count(phase) >= number:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return process.returncode == -signal.SIGKILL
        time.sleep(0.0005)
    process.kill()  # where time is up
    process.communicate()
    return False


def finish(process: subprocess.Popen[str], until: float) -> None:
    """Waits for a process that must succeed, and in time."""
    try:
        _, err = process.communicate(timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode != 0:
        sys.exit(f"a start ended with status {process.returncode}: {err}")


def outcome(out: Path) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """Result row, metrics without their times, and the numbers of the last checkpoint."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    (directory,) = (out / "runs").iterdir()
    row = json.loads((directory / "result.json").read_text())["row"]
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if "seconds" not in name} for line in metrics]
    with ocp.CheckpointManager((directory / "checkpoints").resolve()) as manager:
        step = manager.latest_step()
        assert step == STEPS, step
        state = manager.restore(step, args=ocp.args.StandardRestore())
    return row, kept, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def main() -> int:
    """Exit status 1 if a number changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds until it is ended, as failed")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.limit
    try:
        return test(arguments, until)
    except subprocess.TimeoutExpired:
        print(f"not done in {arguments.limit:g} s; give more by --limit")
        return 1


def test(arguments: argparse.Namespace, until: float) -> int:
    """The kills, and the comparison after each round."""
    chance, out = random.Random(arguments.seed), arguments.out.resolve()
    out.mkdir(parents=True)
    text, log = out / "text.txt", out / "phases.log"
    text.write_text(" ".join("".join(chance.choices("etaoinshrdlu", k=chance.randint(1, 8))) for _ in range(62_000)))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(out / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

    finish(start(out / "calm", text, log), until)
    expected = outcome(out / "calm")
    done, rounds, same = 0, 0, True
    while done < arguments.kills:
        place = out / f"disturbed-{rounds}"
        for phase in PHASES[: min(arguments.kills - done, len(PHASES))]:
            number = 1 if phase == "result" else chance.randint(2, 5)
            delay = chance.uniform(0, 0.004 if phase in ("read", "result") else 0.03)
            hit = kill_at(start(place, text, log), log, phase, number, delay=delay, until=until)
            done += hit
            print(
                f"kill {done}: {phase} {number}, {delay * 1e3:.1f} ms in{'' if hit else ': came too late'}", flush=True
            )
        finish(start(place, text, log), until)
        found = outcome(place)
        equal = [ours == theirs for ours, theirs in zip(found, expected, strict=True)]
        resumed = json.loads(next(place.glob("runs/*/result.json")).read_text())["timing"]["resumed_from_step"]
        print(f"round {rounds}, finished from step {resumed}: row, metrics, state equal: {equal}", flush=True)
        same &= all(equal)
        rounds += 1
    print(f"{done} kills, {rounds} runs: {'all the same, bit for bit' if same else 'DIFFERENT NUMBERS'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
