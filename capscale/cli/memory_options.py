"""Memory options of commands that train, or prepare it, and what of them goes together."""

import math
from typing import TYPE_CHECKING, Literal, Protocol

from capscale.errors import UserError
from capscale.train.memory import Gather, Memory

if TYPE_CHECKING:
    from capscale.sweep.local import Mode

HowMemory = Literal["given", "auto"]


class AsksForMemory(Protocol):
    """Options of a command about memory."""

    fsdp: int
    microbatches: int
    remat: bool
    gather: Gather
    unroll: bool
    memory: HowMemory


def memory_of(command: AsksForMemory) -> Memory:
    """Memory settings of a command; raises `UserError` for those that contradict each other."""
    if command.memory == "auto":
        plain = {"fsdp": 1, "microbatches": 1, "remat": False, "gather": "layer"}
        if given := [f"--{name}" for name, value in plain.items() if getattr(command, name) != value]:
            raise UserError(f"--memory auto finds {' and '.join(given)} by itself; drop one or the other")
    if command.gather != "layer" and command.fsdp == 1:
        raise UserError(
            f"--gather {command.gather}: every device has all parameters; give --fsdp N to share them, or leave it out"
        )
    return Memory(command.remat, command.microbatches, command.gather, command.unroll)


def device_bytes(command: AsksForMemory, device_memory: float | None) -> int | None:
    """Bytes of a device's memory that --device-memory gives; `UserError` where it is out of range or has no use."""
    if device_memory is None:
        return None
    if command.memory != "auto":
        raise UserError(f"--device-memory {device_memory:g} is for --memory auto; drop it, or give that too")
    if not 0 < device_memory < math.inf:
        raise UserError(f"--device-memory {device_memory:g} must be more than 0 GB, and finite")
    return int(device_memory * 1e9)


def one_at_a_time(mode: "Mode") -> "Mode":
    """Mode for settings that belong to one run over all devices; `UserError` for one that does otherwise."""
    if mode in ("threads", "population"):
        raise UserError(
            f"--memory auto trains a run at a time over all devices, which --mode {mode} does not; drop one"
        )
    return "mesh"
