"""The command of runs for processes that are started elsewhere, as by Ray, or beside this one."""

import os
import sys
from typing import TYPE_CHECKING

from capscale.cli.selecting import Selecting

if TYPE_CHECKING:
    from etils import epath

    from capscale.cli.training import Grouped, Training
    from capscale.clock import Waitable
    from capscale.sweep.display import Display
    from capscale.sweep.outcome import Outcome
    from capscale.sweep.plan import Sweep
    from capscale.sweep.ray_unit import Kind
    from capscale.sweep.ray_work import Joined, Train

_KINDS: "dict[str, Kind | None]" = {"auto": None, "cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}


def launch_elsewhere(
    command: "Grouped",
    experiment: str,
    out: "epath.Path",
    wanted: "Sweep",
    places: list[int],
    *,
    display: "Display",
    stop_losers: bool,
    stop: "Waitable",
) -> "Outcome":
    """Trains the wanted runs on Ray, or by processes on this host; `places` are theirs in the experiment's list."""
    from capscale.cli.training import SideBySide
    from capscale.sweep.chip_groups import group_environments, host_devices
    from capscale.sweep.on_ray import launch_on_ray
    from capscale.sweep.processes import launch_processes
    from capscale.sweep.slices import find_slice

    arguments = run_arguments(command, experiment, str(out), stop_losers)
    if not isinstance(command, SideBySide) or command.launcher == "local":
        groups = group_environments(host_devices(), command.devices_per_run)
        here = run_here(arguments, places)
        return launch_processes(wanted, here, groups, out, display, stopping=stop_losers, stop=stop)
    return launch_on_ray(
        wanted,
        run_elsewhere(arguments, places),
        out,
        display,
        devices=command.devices_per_run,
        kind=_KINDS[command.device_kind],
        slice_=None if command.slice is None else find_slice(command.slice),
        jobs=command.jobs,
        retries=command.retries,
        wait_s=60 * command.wait_for_nodes,
        stopping=stop_losers,
        stop=stop,
    )


def run_elsewhere(arguments: list[str], places: list[int]) -> "Train":
    """A function that is `capscale run` of one of the chosen runs, in the process that calls it.

    `places`: where the chosen runs stand in the experiment's list.
    """

    def run_at(index: int, joined: "Joined | None") -> int:
        from capscale.cli import main

        place = [] if joined is None else ["--coordinator", joined.coordinator, "--processes", str(joined.processes)]
        place += [] if joined is None else ["--process-index", str(joined.place)]
        return main([*arguments, *place, "--index", str(places[index])])

    return run_at


def run_here(arguments: list[str], places: list[int]) -> list[str]:
    """The command of a process of its own that trains the chosen runs, one after the other."""
    code = "import sys; from capscale.cli import main; sys.exit(main())"
    indices = ["--index", *map(str, places)]
    return [sys.executable, "-c", code, *arguments, "--mode", "mesh", *indices]


def run_arguments(command: "Training", experiment: str, out: str, stop_losers: bool = False) -> list[str]:
    """Arguments of `capscale run`, but for --index, that mean the same in a process started elsewhere."""
    from capscale.models.ladder_files import SUFFIXES

    found = _absolute(experiment) if experiment.endswith(".py") else experiment
    ladder = _absolute(command.ladder) if command.ladder.endswith(SUFFIXES) else command.ladder
    arguments = ["run", found, "--out", _absolute(out), "--ladder", ladder]
    text = [] if command.text is None else ["--text", _absolute(command.text)]
    options = ["--fsdp", str(command.fsdp), "--microbatches", str(command.microbatches)]
    options += ["--gather", command.gather, "--mtbf", str(command.mtbf)]
    options += ["--memory", command.memory]
    if command.device_memory is not None:
        options += ["--device-memory", str(command.device_memory)]
    if command.checkpoint_interval is not None:
        options += ["--checkpoint-interval", str(command.checkpoint_interval)]
    switches = [f"--{name}" for name in ("remat", "unroll", "tensorboard") if getattr(command, name)]
    switches += ["--stop-losers"] if stop_losers else []
    project = [] if command.wandb is None else ["--wandb", command.wandb]
    selecting = command.selecting if isinstance(command, Selecting) else []
    return [*arguments, *text, *options, *switches, *project, *selecting]


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)
