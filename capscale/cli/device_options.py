"""Options of commands about the devices that a run gets, and what of them goes together."""

from typing import Literal

from capscale.errors import UserError

DeviceKind = Literal["auto", "cpu", "gpu", "tpu"]


def check_devices(slice_: str | None, devices: int, kind: str) -> None:
    """Raises `UserError` for a slice that there is none of, or that other devices are given beside."""
    from capscale.sweep.slices import find_slice

    if slice_ is not None and (devices != 1 or kind != "auto"):
        raise UserError("a TPU slice says what devices a run gets: drop --devices-per-run and --device-kind")
    if slice_ is not None:
        find_slice(slice_)


def check_groups(devices: int, mode: str, *, joins: bool) -> None:
    """Raises `UserError` for groups of this host's devices that there are not, or that are not asked for alone.

    Args:
      devices: of each run.
      mode: how runs share those of the host; groups are for "processes".
      joins: other processes are to train each run along.
    """
    if devices < 1:
        raise UserError(f"--devices-per-run {devices} must be at least 1")
    if mode != "processes":
        return
    if joins:
        raise UserError("--mode processes starts processes that train apart; drop --distributed and --coordinator")
    from capscale.sweep.chip_groups import group_environments, host_devices

    group_environments(host_devices(), devices)
