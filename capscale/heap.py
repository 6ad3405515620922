"""How the C library keeps memory that was freed: a training step on a CPU asks for the same gigabytes every time."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

_SETTINGS = {-8: 1, -4: 0, -1: -1}
"""Of glibc's mallopt, by the numbers in its malloc.h: one heap for all threads (M_ARENA_MAX), as those of their own are
too small; nothing beside it (M_MMAP_MAX); and nothing of it given back (M_TRIM_THRESHOLD)."""

_GROWTH = 2**28
"""Bytes by which a kept heap has to grow until what is free in it is given back: less costs more to ask for anew."""

_kept: list[Any] = []
"""The C library that was told to keep what is freed, and the heap's size when `release_growth` looked last."""


class _MallInfo(ctypes.Structure):
    """Result of `mallinfo2`: ten sizes, of which the first is the heap's."""

    _fields_ = (("arena", ctypes.c_size_t), ("others", ctypes.c_size_t * 9))


_ACCELERATORS = ("nvidia[0-9]*", "dxg", "kfd", "accel[0-9]*", "vfio/[0-9]*")
"""Names in /dev of GPUs and TPUs, or of what leads to them."""


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed for what is asked for next; returns whether it was told.

    XLA asks for the temporary memory of a program at every call, and frees it behind. By default glibc takes so much
    from the kernel and gives it back, and at every step the kernel fills each page with zeros. Told so, the process
    keeps what it held at its peak, and more where what is asked for fits no hole: `release_growth` bounds that.

    It is not told where it would be of no use: once JAX is imported, whose threads have heaps of their own from their
    first request on, for accelerators, whose memory is their own, and without glibc. Nor where the environment has
    settings of malloc (`MALLOC_ARENA_MAX` and its like, `GLIBC_TUNABLES`).
    """
    if "jax" in sys.modules or _set_by_user() or not _on_cpus() or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in ("mallopt", "gnu_get_libc_version", "mallinfo2")):
        return False
    told = [library.mallopt(parameter, value) == 1 for parameter, value in _SETTINGS.items()]
    _kept[:] = [library] if all(told) else []
    return bool(_kept)


def release_growth() -> bool:
    """Gives free memory back to the kernel where the heap has grown since it last did so; returns whether it did.

    A hole is too short once some small thing has taken its last bytes, and XLA's next gigabytes are asked for anew
    beside it: without this a process that keeps what it frees holds its peak twice after some steps, and three times
    after some more. To be called between steps, where it takes microseconds; the first time it only notes the size.
    Without effect in a process that was not told to keep what it frees (`keep_freed_memory`).
    """
    if not _kept:
        return False
    library, *seen = _kept
    size = _size(library)
    if seen and size < seen[0] + _GROWTH:
        return False
    _kept[:] = [library, size]
    return bool(seen) and bool(library.malloc_trim(0))


def _size(library: Any) -> int:
    """Bytes of the heap's address space, those given back included."""
    library.mallinfo2.restype = _MallInfo
    return int(library.mallinfo2().arena)


def _set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


def _on_cpus() -> bool:
    """Whether JAX will use CPUs, as far as that can be told without it."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms == "cpu" if platforms else not any(any(Path("/dev").glob(name)) for name in _ACCELERATORS)
