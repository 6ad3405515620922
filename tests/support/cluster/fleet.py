"""Slices that are preempted while they train a sweep: what happens to each, and what came of the runs."""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from random import Random
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from rich.console import Console

from capscale.clock import using
from capscale.errors import TRY_AGAIN, Unavailable, UserError
from capscale.models.ladder import Ladder
from capscale.storage import may_pass, refusal
from capscale.sweep import local, outcome
from capscale.sweep.directory import open_directory
from capscale.sweep.display import Display
from capscale.sweep.plan import Sweep
from capscale.train import checkpoint, lease, record
from capscale.train.loop import LoopIntervals
from capscale.train.record import read_result
from capscale.train.run import Run
from capscale.train.saving import Saving
from support.cluster import bucket as buckets
from support.cluster.bucket import Bucket
from support.cluster.checkpoints import Manager
from support.cluster.simulation import Process, Simulation
from support.cluster.slices import GRACE_S, LOOK_S, Host, Lost, Plan, Report, Slice
from support.cluster.training import CHUNK, DATA, STEP_S, Text, Trainer, loss_of, runs_of, total_after

OUT = "gs://bucket/out"


class Fleet:
    """Slices at work on a sweep in a bucket."""

    def __init__(self, plan: Plan):
        self.plan, self.random = plan, Random(plan.seed)
        self.simulation = Simulation(3600 * plan.most_h)
        self.bucket = Bucket(self.simulation, plan.weather, Random(plan.seed + 1))
        ladder = Ladder("simulated", {}, {}, 1)
        self.sweep = Sweep("simulated", ladder, DATA, runs_of(plan.runs))
        self.slices = [Slice(self, number) for number in range(plan.slices)]
        self.up_s = self.idle_s = self.useful_s = self.again_s = self.compiling_s = 0.0
        self.farthest: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.last_end = 0.0

    def report(self) -> Report:
        """Lets it all happen."""
        provider = Process("provider")
        for slice_ in self.slices:
            self.simulation.spawn(slice_.keep, provider, f"slice {slice_.number}")
        self.simulation.spawn(self._disturb, provider, "trouble")
        with self._in_place():
            self.simulation.run()
            ended = Counter(self._ended(run) for run in self.sweep.runs)
        return Report(
            ended=dict(ended),
            twice=sum(count > 1 for count in self.ends.values()),
            happened=dict(self.happened),
            statuses=dict(sorted(self.statuses.items())),
            makespan_h=self.last_end / 3600,
            up_h=self.up_s / 3600,
            useful_h=self.useful_s / 3600,
            again_h=self.again_s / 3600,
            compiling_h=self.compiling_s / 3600,
            idle_h=self.idle_s / 3600,
            requests=dict(self.bucket.requests),
            failures=self.failures,
        )

    def command(self, host: Host) -> None:
        """`capscale sweep`: how it begins, and its exit status; `capscale.cli` does the same around it."""
        try:
            out, ended = epath.Path(OUT), 0
            if host.index == 0:
                open_directory(self.sweep, out, "capscale sweep", {})
            if len(host.slice.hosts) > 1:
                host.slice.gather(host, None)
            with Display(Console(file=io.StringIO(), quiet=True)) as display:
                saving = Saving(mtbf_s=3600.0)
                found = local.launch(
                    self.sweep, Text(), out, display, mode="mesh", jobs=1, saving=saving, stop=host.stop
                )
            self.failures += found.failed
            if found.failed:
                ended = TRY_AGAIN if found.passing == len(found.failed) else 2
            elif found.present + found.trained < len(self.sweep.runs):
                ended = 143
            host.status = ended
        except UserError as error:
            self.failures.append(str(error))
            host.status = TRY_AGAIN if isinstance(error, Unavailable) else 2
        except Exception as error:
            self.failures.append(repr(error))
            host.status = TRY_AGAIN if isinstance(error, Lost) or (refusal(error) and may_pass(error)) else 2
        self.simulation.kill(host)  # whatever threads are left

    def _disturb(self) -> None:
        """All that goes wrong with machines, at times by chance over the first two thirds of the sweep."""
        plan, random = self.plan, self.random
        kinds = ["preempted"] * plan.preemptions + ["dead"] * plan.dead + ["stalled"] * plan.stalls
        random.shuffle(kinds)
        work_s = sum(run.steps for run in self.sweep.runs) * STEP_S / plan.slices
        for trouble in kinds:
            kind = trouble
            self.simulation.sleep(random.expovariate(len(kinds) / (0.7 * work_s)))
            working = [slice_ for slice_ in self.slices if slice_.live()]
            while not working:
                self.simulation.sleep(5.0)
                working = [slice_ for slice_ in self.slices if slice_.live()]
            slice_ = random.choice(working)
            host = random.choice(slice_.live())
            if kind == "stalled":
                host.stands_still_until = self.simulation.now + random.uniform(30, 240)
            elif kind == "dead":
                kind = "a host of two died" if len(slice_.hosts) > 1 else "a process was killed"
                self.simulation.kill(host)
            elif random.random() < 0.5:
                kind = "preempted, with SIGTERM"
                for each in slice_.live():
                    each.stop.set()
                hosts = slice_.hosts
                self.simulation.at(self.simulation.now + GRACE_S, lambda hosts=hosts: self._end(hosts))
            else:
                kind = "preempted, without a word"
                slice_.machine_is_gone = True
                self._end(slice_.hosts)
            self.happened[kind] += 1

    def _end(self, hosts: list[Host]) -> None:
        for host in hosts:
            if host.status is None:
                self.simulation.kill(host)

    def _ended(self, run: Run) -> str:
        """Its result, held to the numbers of a run that nothing disturbed."""
        found = read_result(self.sweep.directory_of(run, epath.Path(OUT)), run)
        if found is None:
            return "lost"
        same = found["row"]["loss"] == loss_of(total_after(run.seed, run.steps))
        return "as undisturbed" if same else "other numbers"

    def _told(self, run: Run, first: int, last: int, seconds: float, compiling: float) -> None:
        """Adds the seconds of a chunk up, by the first host of each slice."""
        if self._host().index:
            return
        new = max(0, last - max(first, self.farthest[run.run_id]))
        self.farthest[run.run_id] = max(last, self.farthest[run.run_id])
        self.useful_s += seconds * new / (last - first)
        self.again_s += seconds * (1 - new / (last - first))
        self.compiling_s += compiling

    def _host(self) -> Any:
        return self.simulation.process()

    def _executor(self, runs: list[Run], *options: Any) -> Trainer:
        def together() -> None:
            host = self._host()
            if len(host.slice.hosts) > 1:
                try:
                    host.slice.gather(host, None)
                except Lost as error:
                    raise jax.errors.JaxRuntimeError(str(error)) from error

        return Trainer(self.simulation, together, self._told)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Puts the simulation in place of the clock, the bucket, the machines, orbax and JAX's processes."""

        def gathered(value: np.ndarray) -> np.ndarray:
            host = self._host()
            return np.stack(host.slice.gather(host, value))

        def count() -> int:
            host = self.simulation.process()
            return len(host.slice.hosts) if isinstance(host, Host) else 1

        def index() -> int:
            host = self.simulation.process()
            return host.index if isinstance(host, Host) else 0

        real = record.finish

        def finish(run: Run, directory: epath.Path, ending: Any, timing: dict[str, Any]) -> dict[str, Any]:
            new = real(run, directory, ending, timing)
            if index() == 0:
                self.last_end = self.simulation.now
                self.ends[run.run_id] += timing["tokens_per_s"] is not None
            return new

        Manager.bucket = self.bucket
        with ExitStack() as stack:
            stack.enter_context(using(self.simulation))
            stack.enter_context(buckets.serving(self.bucket))
            for target, name, value in [
                (lease, "_place", lambda: self._host().place),
                (lease, "_process", lambda pid: self._host().name),
                (lease, "_seen", _OfProcess(self, "seen")),
                (checkpoint, "_ONE_AT_A_TIME", _OfProcess(self, "saving")),
                (checkpoint, "_leftovers_unheard", nullcontext),
                (checkpoint.ocp, "CheckpointManager", Manager),
                (
                    LoopIntervals,
                    "at",
                    lambda *args, background, saving, judged: LoopIntervals(
                        CHUNK, background=background, mtbf_s=saving.mtbf_s
                    ),
                ),
                (local, "_executor", self._executor),
                (record, "finish", finish),
                (outcome, "HEARD_S", LOOK_S),
                (jax, "process_count", count),
                (jax, "process_index", index),
                (multihost_utils, "process_allgather", gathered),
                (multihost_utils, "sync_global_devices", lambda name: gathered(np.zeros(1))),
            ]:
                stack.enter_context(patch.object(target, name, value))
            yield


class _OfProcess:
    """Values of each process, where a module has one for all."""

    def __init__(self, fleet: Fleet, name: str):
        self._mine = lambda: getattr(fleet._host(), name)

    def get(self, key: str, default: Any = None) -> Any:
        return self._mine().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self._mine()[key] = value

    def __enter__(self) -> Any:
        return self._mine().__enter__()

    def __exit__(self, *exc: object) -> None:
        self._mine().__exit__(*exc)
