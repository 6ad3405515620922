"""Devices of this host in groups, each for a process of its own: what makes a process see its group alone."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from capscale.errors import UserError

PORT = 8476
"""libtpu's port of the first group; the others' follow."""
BOUNDS = {1: "1,1,1", 2: "1,2,1"}
"""Shape of so many chips, as JAX's own tests of several processes on a host have it (jax/_src/test_multiprocess.py of
0.10.2): of one chip on hosts of any size, of two on hosts of four. Which four of eight are neighbours differs
there from v5e to v6e, and is left out."""
FOUR = 4


class HostDevices(NamedTuple):
    """Accelerators of this host, by their numbers."""

    kind: str
    numbers: tuple[str, ...]


def host_devices(devices: Path = Path("/dev"), environment: Mapping[str, str] = os.environ) -> HostDevices:
    """The TPU chips or GPUs of this host, found without taking them: those that the environment shows, else all.

    Raises `UserError` where there are none.
    """
    names = sorted(path.name for path in devices.glob("*")) if devices.exists() else []
    chips = [name for name in names if re.fullmatch(r"accel\d+", name)]
    groups = [path.name for path in (devices / "vfio").glob("*") if path.name.isdecimal()]  # of newer TPU hosts
    gpus = [name for name in names if re.fullmatch(r"nvidia\d+", name)]
    # Some GPU hosts bind other devices to VFIO; a TPU host has no GPUs.
    kind, found = ("GPU", gpus) if gpus else ("TPU", chips or groups)
    if not found:
        raise UserError(
            "--mode processes gives each process some of this host's TPU chips or GPUs, and there are none; on CPUs "
            "--mode threads trains runs side by side"
        )
    shown = environment.get("CUDA_VISIBLE_DEVICES" if kind == "GPU" else "TPU_VISIBLE_CHIPS")
    every = [str(number) for number in range(len(found))]
    return HostDevices(kind, tuple(every if shown is None else filter(None, shown.split(","))))


def group_environments(host: HostDevices, size: int) -> list[dict[str, str]]:
    """Environment variables of a process for each group of `size` devices; devices that fill no group are left.

    >>> for group in group_environments(HostDevices("GPU", ("0", "1", "2", "3")), 2): print(group)
    {'CUDA_VISIBLE_DEVICES': '0,1'}
    {'CUDA_VISIBLE_DEVICES': '2,3'}

    Raises `UserError` for groups that there are not.
    """
    numbers = host.numbers
    if size > len(numbers):
        raise UserError(f"--devices-per-run {size}: this host has {len(numbers)} {host.kind}s; ask for fewer")
    groups = [numbers[first : first + size] for first in range(0, len(numbers) - size + 1, size)]
    if host.kind == "GPU":
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
    if size not in BOUNDS or (size > 1 and len(numbers) != FOUR):
        raise UserError(
            f"--devices-per-run {size}: of a host with {len(numbers)} TPU chips a process gets 1, or 2 where there are "
            "4; for all of them use --mode mesh"
        )
    return [
        {
            "TPU_VISIBLE_CHIPS": ",".join(group),
            "TPU_CHIPS_PER_PROCESS_BOUNDS": BOUNDS[size],
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{PORT + place}",
            "TPU_PROCESS_PORT": str(PORT + place),
            "CLOUD_TPU_TASK_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
        for place, group in enumerate(groups)
    ]
