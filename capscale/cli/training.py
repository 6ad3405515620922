"""Options shared by the commands that train, and one training with its exit status."""

import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Literal

from capscale.cli.device_options import DeviceKind, check_devices, check_groups
from capscale.cli.memory_options import HowMemory, device_bytes, memory_of, one_at_a_time
from capscale.cli.selecting import LadderName, Selecting, planned
from capscale.errors import TRY_AGAIN, UserError
from capscale.heap import keep_freed_memory
from capscale.train.memory import Gather

if TYPE_CHECKING:
    from etils import epath

    from capscale.sweep.local import Mode
    from capscale.sweep.outcome import Outcome
    from capscale.sweep.plan import Sweep
    from capscale.sweep.preflight import Setting
    from capscale.train.run import Run
    from capscale.train.saving import Saving
    from capscale.train.trackers import OpenBoard

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit status after Ctrl-C, and after SIGTERM, which is how machines are preempted: checkpoints are saved, the same
command goes on from them."""

CPU_FLAGS = (
    # Runs side by side, one thread each, are twice as fast at nano sizes as one run over all cores.
    "--xla_cpu_multi_thread_eigen=false",
    # A third less compilation, and code as fast: tiny models spend as long compiling as training.
    "--xla_backend_optimization_level=1",
    "--xla_llvm_disable_expensive_passes=true",
)
"""Read by XLA's CPU client when it starts, without effect on GPU and TPU; the user's own XLA_FLAGS come after."""


@dataclass(kw_only=True)
class Training:
    """Options shared by the commands that train."""

    ladder: LadderName = "nano"
    text: str | None = None
    """Text file or directory of token shards to train on; the prose of Python's standard library if not given."""
    fsdp: int = 1
    """Devices that share one copy of the parameters; more than 1 means --mode mesh."""
    microbatches: int = 1
    """Parts of a batch that are done one after the other, to save memory."""
    remat: bool = False
    """Compute each layer anew in the backward pass, to save memory."""
    gather: Gather = "layer"
    """With --fsdp: send weights for each layer of each micro-batch, or once a step, which takes the memory of all."""
    unroll: bool = False
    """Write all layers out in place of a loop over one: faster steps, which take several times as long to compile."""
    memory: HowMemory = "given"
    """By auto each program gets a setting of these that fits, all at once where that does: the one that is
    kept in --out/memory, or else it is looked for, and kept there. Means --mode mesh."""
    device_memory: float | None = None
    """With --memory auto: GB (10^9 bytes) of a device, if not what it tells itself."""
    checkpoint_interval: float | None = None
    """Seconds between checkpoints. If not given, as often as failures make one worth the time that it takes to write,
    and 2 % of the time at most."""
    mtbf: float = 24.0
    """Hours between failures of the machines (preemptions too) that this assumes."""
    tensorboard: bool = False
    """Write metrics for TensorBoard too, in each run's directory."""
    wandb: str | None = None
    """Project of Weights & Biases to send metrics to."""
    distributed: bool = False
    """Join the processes started with this one on a TPU pod, Slurm or a cluster, and train each run together."""
    coordinator: str | None = None
    """HOST:PORT of the first process, to join processes that no cluster has started; with the next two."""
    processes: int | None = None
    """How many processes there are."""
    process_index: int | None = None
    """Which of them this one is, from 0."""

    @property
    def joins(self) -> bool:
        """Whether this process trains each run together with others."""
        address = (self.coordinator, self.processes, self.process_index)
        return self.distributed or any(value is not None for value in address)


@dataclass(kw_only=True)
class Grouped(Training):
    """Options shared by the commands that may share out the devices of this host, a process for each group of them."""

    devices_per_run: int = 1
    """With --mode processes: GPUs or TPU chips of this host that a run gets."""


@dataclass(kw_only=True)
class SideBySide(Grouped):
    """Options shared by the commands that train many runs."""

    mode: Literal["auto", "threads", "population", "mesh", "processes"] = "auto"
    """How runs share the devices: see `capscale.sweep.local.launch`. By processes each run has --devices-per-run
    GPUs or TPU chips of this host, in a process that sees these alone; there are as many as there are devices for."""
    jobs: int | None = None
    """Runs trained side by side on a CPU; its cores if not given."""
    launcher: Literal["local", "ray"] = "local"
    """Who trains: this process, or the Ray cluster that RAY_ADDRESS names (one is started here without it)."""
    devices_per_run: int = 1
    """With Ray: accelerators of one host that a run gets; CPU cores where there are none. With --mode processes: those
    of this host."""
    device_kind: DeviceKind = "auto"
    """With Ray: what --devices-per-run counts; by auto GPUs or TPU chips where the cluster has some now, CPU cores
    elsewhere. Say it where an autoscaler has yet to add them."""
    slice: str | None = None
    """With Ray: TPU slice, such as v5e:4x4, whose hosts train each run together, in place of --devices-per-run."""
    wait_for_nodes: float = 30.0
    """With Ray: minutes to wait while the cluster has no devices such as a run needs, busy or not, for an autoscaler to
    add them."""
    retries: int = 3
    """With Ray: attempts in a row that may end without progress before a run counts as failed."""

    def check_launcher(self) -> None:
        """Raises `UserError` for options that do not go together."""
        for name, least in (("jobs", 1), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}")
        if not 0 <= self.wait_for_nodes < math.inf:
            raise UserError(f"--wait-for-nodes {self.wait_for_nodes} must be 0 minutes or more, and finite")
        if self.slice is not None and self.launcher != "ray":
            raise UserError("--slice is for --launcher ray; on the hosts of a slice start this with --distributed")
        check_devices(self.slice, self.devices_per_run, self.device_kind)
        if self.joins and self.launcher == "ray":
            raise UserError("--distributed joins processes that were started together; Ray's workers are not")
        if self.launcher == "ray" and self.mode != "auto":
            raise UserError(
                f"--mode {self.mode} is for --launcher local; on Ray each run has the devices of --devices-per-run to "
                "itself: drop it"
            )
        check_groups(self.devices_per_run, self.mode, joins=self.joins)


def saving_of(checkpoint_interval: float | None, mtbf: float) -> "Saving":
    """How often checkpoints are written, in seconds; `UserError` for flags that say it otherwise."""
    from capscale.train.saving import Saving

    if checkpoint_interval is not None and not 0 <= checkpoint_interval < math.inf:
        raise UserError(f"--checkpoint-interval {checkpoint_interval} must be 0 seconds or more, and finite")
    if not 0 < mtbf < math.inf:
        raise UserError(f"--mtbf {mtbf} must be more than 0 hours, and finite")
    return Saving(checkpoint_interval, 3600 * mtbf)


def _prepare_for_cpus() -> None:
    """Sets what makes training on CPUs fast and has no effect elsewhere; ahead of JAX, which reads it as it starts."""
    os.environ["XLA_FLAGS"] = " ".join([*CPU_FLAGS, os.environ.get("XLA_FLAGS", "")])
    keep_freed_memory()


def train(
    command: Training,
    experiment: str,
    out: str,
    mode: "Mode | Literal['processes']",
    chosen: "Callable[[Sweep], Sequence[Run]]" = lambda sweep: sweep.runs,
    *,
    stop_losers: bool = False,
) -> int:
    """Trains the chosen runs of an experiment that have no result in `out` yet; the exit status says how it ended.

    0: all of them have results, or were stopped early. 2: runs failed. 75: so did they, and all by what may pass by
    itself (`capscale.errors.Unavailable`). Of a stopped one, that of its signal (`STOPPED`).
    """
    _prepare_for_cpus()
    import jax
    from etils import epath
    from rich.console import Console

    from capscale.cli.elsewhere import launch_elsewhere
    from capscale.sweep.directory import open_directory
    from capscale.sweep.display import Display
    from capscale.sweep.local import launch, mode_of, sends_rounded
    from capscale.sweep.losers import judges
    from capscale.sweep.selection import WHOLE
    from capscale.train import distributed
    from capscale.train.record import versions

    on_ray = isinstance(command, SideBySide) and command.launcher == "ray"
    elsewhere = on_ray or mode == "processes"
    if command.joins:
        distributed.connect(command.coordinator, command.processes, command.process_index)
    if elsewhere:
        jax.config.update("jax_platforms", "cpu")  # this process only plans; the workers need the accelerators

    with distributed.all_or_none():
        saving, memory = saving_of(command.checkpoint_interval, command.mtbf), memory_of(command)
        fit = _fit(command, epath.Path(out), elsewhere)
        own = _asked(command, mode, stop_losers)
        shown = [] if elsewhere else _boards(command)  # the workers show what they train
        selected = command.selection if isinstance(command, Selecting) else WHOLE
        whole, source = planned(experiment, command.ladder, selected, command.text)
        directory, wanted = epath.Path(out), replace(whole, runs=tuple(chosen(whole)))
        own = mode_of(own, command.fsdp, stop_losers, together=sends_rounded(wanted))
        judge = judges(whole, directory) if stop_losers else None
        if distributed.is_first():
            open_directory(whole, directory, " ".join(["capscale", *sys.argv[1:]]), versions())
    stop, caught = Event(), []

    def on_signal(number: int, frame: object) -> None:
        if caught:  # whoever asks twice does not want to wait for checkpoints
            os.write(2, b"capscale: stopped at once\n")
            os._exit(STOPPED[signal.Signals(number)])
        caught.append(number)
        stop.set()

    for number in STOPPED:
        signal.signal(number, on_signal)
    with Display(Console(quiet=not distributed.is_first())) as display:
        if isinstance(command, Grouped) and elsewhere:
            places = [whole.runs.index(run) for run in wanted.runs]
            outcome = launch_elsewhere(
                command, experiment, directory, wanted, places, display=display, stop_losers=stop_losers, stop=stop
            )
        else:
            outcome = launch(
                wanted,
                source,
                directory,
                display,
                mode=own,
                jobs=command.jobs if isinstance(command, SideBySide) else 1,
                fsdp=command.fsdp,
                memory=memory,
                fit=fit,
                saving=saving,
                trackers=shown,
                stop=stop,
                judge=judge,
            )
    status = _conclude(outcome, len(wanted.runs), directory, STOPPED[caught[0] if caught else signal.SIGINT])
    if outcome.alone or outcome.abandoned:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an orderly end would wait for processes that wait for this one, or for a compiler
    return status


def _asked(command: Training, mode: "Mode | Literal['processes']", stop_losers: bool) -> "Mode":
    """The mode that a command asks for of runs in one process, refused before the text is read where it cannot be."""
    from capscale.sweep.local import mode_of

    asked = "mesh" if mode == "processes" else mode
    asked = one_at_a_time(asked) if command.memory == "auto" else asked
    mode_of(asked, command.fsdp, stop_losers)
    return asked


def _fit(command: Training, out: "epath.Path", elsewhere: bool) -> "Callable[[Run], Setting] | None":
    """The search for memory settings on the devices here; None where they are given, or of workers elsewhere."""
    given = device_bytes(command, command.device_memory)
    if command.memory != "auto" or elsewhere:
        return None
    from capscale.sweep.fitting import Here, fitted

    here = Here(given)
    here.memory()  # which some devices do not tell
    return partial(fitted, place=here, out=out, unroll=command.unroll)


def _boards(command: Training) -> "list[OpenBoard]":
    from capscale.train import trackers

    shown = [trackers.open_tensorboard()] if command.tensorboard else []
    return [*shown, *([trackers.open_wandb(command.wandb)] if command.wandb else [])]


def _conclude(outcome: "Outcome", total: int, out: "epath.Path", stopped: int) -> int:
    from capscale.files import printable

    finished = outcome.present + outcome.trained
    diverged = f", {outcome.diverged} of them diverged" if outcome.diverged else ""
    early = f", {outcome.stopped} stopped early" if outcome.stopped else ""
    print(f"{finished} of {total} results in {out} ({outcome.trained} trained now{diverged}){early}")
    for message in outcome.failed:
        print(f"capscale: {printable(message)}", file=sys.stderr)
    if outcome.failed:
        return TRY_AGAIN if outcome.passing == len(outcome.failed) else 2
    if finished + outcome.stopped < total:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return stopped
    return 0
