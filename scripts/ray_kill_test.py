"""Kills a worker of a Ray sweep every so often, and checks that every run ends once, in a valid result.

Twelve nano runs on a Ray cluster that is started here. The worker that is killed, with SIGKILL, is one that holds the
lease of a run that is under way, chosen by chance.

Run: `python scripts/ray_kill_test.py --every 20 --jobs 2 --out DIR` (needs `pip install 'capscale[ray]'`)
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

from etils import epath

from capscale.data.corpus import DataId
from capscale.models.ladder import Ladder
from capscale.representation import DENSE, Representation, operand
from capscale.sweep.on_ray import newest_checkpoint
from capscale.train import loop, record
from capscale.train.lease import current_lease, is_live
from capscale.train.loop import LoopIntervals
from capscale.train.run import Optimizer, Run

SIZE, SEEDS, CHECKPOINT_S = "nano-16", 3, 1.0
LOG, STEPS = "CAPSCALE_RAY_TEST_LOG", "CAPSCALE_RAY_TEST_STEPS"
FORMATS = (DENSE, *(Representation(operand(name), hadamard=128) for name in ("int4", "int2", "int1")))


def runs(ladder: Ladder, data: DataId) -> list[Run]:
    """The experiment: four formats, three seeds."""
    model = ladder.model(SIZE, data.vocabulary)
    tokens = int(os.environ[STEPS]) * ladder.batch * model.context
    optimizer = Optimizer(ladder.learning_rates[SIZE])
    return [
        Run(SIZE, model, tokens, data, optimizer, ladder.batch, ladder.name, representation, seed)
        for seed in range(SEEDS)
        for representation in FORMATS
    ]


def tell_of_ends() -> None:
    """Every result that is written leaves a line in the log; checkpoints are frequent, as the runs are short."""
    write, of = record.write_result, LoopIntervals.of

    def told(directory: epath.Path, new: dict[str, Any], run: Run) -> None:
        with open(os.environ[LOG], "a") as file:
            file.write(f"{run.run_id} {os.getpid()} {new['timing']['resumed_from_step']}\n")
        write(directory, new, run)

    record.write_result = told
    cast(Any, LoopIntervals).of = lambda run, background=False, **_: LoopIntervals(
        min(of(run).chunk, 50), CHECKPOINT_S, background
    )


if LOG in os.environ and "ray" in sys.modules and not hasattr(loop, "ends_are_told"):  # once in each worker
    cast(Any, loop).ends_are_told = True
    tell_of_ends()


def kill_one(out: Path, chance: random.Random, killed: dict[str, int]) -> str | None:
    """Kills a process that trains; the directory of its run, None where there is none to kill.

    `killed` holds the newest checkpoint of each run when its worker was last killed. Only a worker that has added one
    since is killed: on a machine where a start takes longer than the time between kills, the sweep would never end.
    """
    under_way = []
    for directory in (out / "runs").glob("*") if (out / "runs").exists() else []:
        lease, saved = current_lease(epath.Path(directory)), newest_checkpoint(epath.Path(directory))
        if is_live(lease) and saved > killed.get(directory.name, 0) and not (directory / "result.json").exists():
            under_way.append((directory.name, lease["pid"] if lease else 0, saved))
    if not under_way:
        return None
    name, pid, saved = chance.choice(sorted(under_way))
    os.kill(pid, signal.SIGKILL)
    killed[name] = saved
    return name


def main() -> int:
    """Exit status 1 if a run has no valid result, or was trained to its end twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds until it is ended, as failed")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out, chance = arguments.out.resolve(), random.Random(arguments.seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_suffix(".ends")
    log.write_text("")
    # Ray starts its workers at niceness 15, which on a busy machine is to say never.
    os.environ |= {LOG: str(log), STEPS: str(arguments.steps), "JAX_PLATFORMS": "cpu", "RAY_worker_niceness": "0"}
    command = "import sys; from capscale.cli import main; sys.exit(main())"
    sweep = [
        "sweep",
        str(Path(__file__).resolve()),
        "--out",
        str(out),
        "--launcher",
        "ray",
        "--jobs",
        str(arguments.jobs),
    ]
    began, kills, killed = time.monotonic(), 0, {}
    with subprocess.Popen([sys.executable, "-c", command, *sweep]) as process:
        name = None
        while process.poll() is None:
            left = began + arguments.limit - time.monotonic()
            try:
                process.wait(min(left, arguments.every if name or not kills else 1.0))  # as soon as there is one again
            except subprocess.TimeoutExpired:
                if time.monotonic() - began >= arguments.limit:
                    print(f"not done in {arguments.limit:g} s; give more by --limit")
                    process.kill()  # Ray's processes see that, and end
                    break
                name = kill_one(out, chance, killed)
                if name:
                    kills += 1
                    seconds = time.monotonic() - began
                    print(f"{seconds:.0f} s: killed the worker of {name} past step {killed[name]}", flush=True)
    ends = [line.split() for line in log.read_text().splitlines()]
    often = {run_id: count for run_id, count in Counter(run_id for run_id, *_ in ends).items() if count > 1}
    results = [json.loads(path.read_text()) for path in out.glob("runs/*/result.json")]
    valid = sum(result["status"] == "ok" and result["row"]["loss"] is not None for result in results)
    resumed = sum(int(step) > 0 for _, _, step in ends)
    conflicts = list(out.glob("runs/*/result.conflict.json"))
    expected = SEEDS * len(FORMATS)
    print(
        f"{kills} workers killed in {time.monotonic() - began:.0f} s; sweep ended with {process.returncode}; "
        f"{valid} of {expected} valid results, {resumed} of them resumed, {len(conflicts)} conflicts, "
        f"ended more than once: {often or 'none'}"
    )
    return 0 if process.returncode == 0 and valid == expected and not often and not conflicts else 1


if __name__ == "__main__":
    sys.exit(main())
