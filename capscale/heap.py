"""How the C library keeps memory that was freed: a training step on a CPU asks for the same gigabytes every time."""

import ctypes
import os
import sys
from pathlib import Path

_SETTINGS = {-8: 1, -4: 0, -1: -1}
"""Of glibc's mallopt, by the numbers in its malloc.h: one heap for all threads (M_ARENA_MAX), as those of their own are
too small; nothing beside it (M_MMAP_MAX); and nothing of it given back (M_TRIM_THRESHOLD)."""

_ACCELERATORS = ("nvidia[0-9]*", "dxg", "kfd", "accel[0-9]*", "vfio/[0-9]*")
"""Names in /dev of GPUs and TPUs, or of what leads to them."""


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed for what is asked for next; returns whether it was told.

    XLA asks for the temporary memory of a program at every call, and frees it behind. By default glibc takes so much
    from the kernel and gives it back, and at every step the kernel fills each page with zeros. Told so, the process
    keeps until it ends what it held at its peak.

    It is not told where it would be of no use: once JAX is imported, whose threads have heaps of their own from their
    first request on, for accelerators, whose memory is their own, and without glibc. Nor where the environment has
    settings of malloc (`MALLOC_ARENA_MAX` and its like, `GLIBC_TUNABLES`).
    """
    if "jax" in sys.modules or _set_by_user() or not _on_cpus() or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version")):
        return False
    told = [library.mallopt(parameter, value) == 1 for parameter, value in _SETTINGS.items()]
    return all(told)


def _set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _on_cpus() -> bool:
    """Whether JAX will use CPUs, as far as that can be told without it."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms == "cpu" if platforms else not any(any(Path("/dev").glob(name)) for name in _ACCELERATORS)
