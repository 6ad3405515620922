"""Hosts that the small runs of a task share, each with some of its devices: which hosts can be shared, and by how many.

A worker finds the devices of its host by itself (`chip_groups`); here it is foretold, so that a launch file is refused
where it is written and not on a machine that is paid for.
"""

import re

from capscale.errors import UserError
from capscale.sweep.chip_groups import HostDevices, group_environments
from capscale.sweep.launchers.cloud_tpu import hosts_of
from capscale.sweep.launchers.skypilot import chips_of, is_pod
from capscale.sweep.slices import Slice, slices


def of_slice(slice_: Slice, most: int | None = None) -> HostDevices:
    """The host of a TPU slice; `UserError` for slices of several hosts, or several slices.

    `most`: chips of a host where that is fewer than Cloud TPU's own hosts have.
    """
    if slice_.count > 1:
        raise UserError(f"--slices {slice_.count} train each run together; --mode processes shares one host: drop one")
    if hosts_of(slice_) > 1 or slice_.chips > (most or slice_.chips):
        raise UserError(
            f"--topology {slice_.name} has several hosts, which train each run together; --mode processes shares one: "
            f"name a slice of one host, such as {slices(slice_.generation)[0].name}, or drop --mode"
        )
    return _devices("TPU", slice_.chips)


def of_gpus(count: int | None) -> HostDevices:
    """The host of a Slurm task, which has the GPUs that it asks for."""
    if count is None:
        raise UserError("--mode processes of launch slurm needs --host-devices: how many GPUs the host of a task has")
    return _devices("GPU", count)


def of_skypilot(accelerators: str, nodes: int) -> HostDevices:
    """The node that SkyPilot calls so; `UserError` for several, and where its devices are not said."""
    if nodes > 1 or is_pod(accelerators):
        asked = f"--nodes {nodes}" if nodes > 1 else f"--accelerators {accelerators}"
        raise UserError(
            f"{asked}: several hosts train each run together; --mode processes shares one: ask for one host, or drop "
            "--mode"
        )
    if (chips := chips_of(accelerators)) is not None:
        return _devices("TPU", chips)
    found = re.fullmatch(r"\s*[\w.-]+(?::(\d+))?\s*", accelerators)
    if found is None:
        raise UserError(
            f"--accelerators {accelerators} does not say how many there are; with --mode processes give one kind, such "
            "as H100:8"
        )
    return _devices("GPU", int(found[1] or 1))


def check_shared(host: HostDevices, devices: int, runs: int | None = None) -> None:
    """Raises `UserError` for a host that does not divide among runs of so many devices, or is larger than all of these.

    Args:
      host: of a task.
      devices: of a run.
      runs: most that a task has; None for a task that has all of the sweep.
    """
    count = len(host.numbers)
    groups = len(group_environments(host, devices))
    if count % devices:
        raise UserError(
            f"--devices-per-run {devices}: the host of a task has {count} {host.kind}s, of which {count % devices} "
            f"would be left over; give a divisor of {count}"
        )
    if runs is not None and runs < groups:
        raise UserError(
            f"--runs-per-task {runs}: the host of a task has {count} {host.kind}s, for {groups} runs of {devices} at "
            f"a time; give {groups} or more, or a smaller host"
        )


def _devices(kind: str, count: int) -> HostDevices:
    return HostDevices(kind, tuple(map(str, range(count))))
