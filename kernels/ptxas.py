"""Resources of Hopper kernels as ptxas tells them, which compiles what Mosaic GPU makes of them; no GPU is asked.

Registers and shared memory decide how many blocks a multiprocessor works on at once, and with them how much of the
memory's latency one block hides of another. What is spilled goes to memory and comes back. Products whose wgmma are
serialised wait for each other. None of it is a time.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from .aot import compile_for_hopper

REGISTERS, SHARED, THREADS, BLOCKS = 65536, 233472, 2048, 32
"""Of a multiprocessor of compute capability 9.0: registers, bytes of shared memory, threads and blocks at most."""
RESERVED = 1024
"""Bytes of shared memory that the system takes of every block."""
UNIT = 256
"""Registers of a warp are given in units of so many; 8 a thread."""
WARP = 32
_DUMPS = {"MOSAIC_GPU_DUMP_PTXAS": "1"}
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_BLOCK = re.compile(r"\.(?:max|req)ntid (\d+)(?:, (\d+))?(?:, (\d+))?")
_SCRATCH = re.compile(r"smem_scratch_bytes=(\d+)")
_SERIALISED = re.compile(r"\(C75\d\d\)")
_INSTRUCTION = re.compile(r"^\s+(?:@!?%p\d+ )?[a-z][\w.:]*\s[^;]*;|^\s+(?:ret|bar\.\w+);", re.M)
_KERNEL = re.compile(r"^(.*)_(\d+)\.ptxas$")


class Resources(NamedTuple):
    """Resources of a kernel.

    Attributes:
      registers: of a thread.
      stored: bytes a thread that spills write.
      loaded: bytes a thread that they read.
      shared: bytes of shared memory of a block.
      threads: of a block.
      serialised: warnings that products on the tensor cores wait for each other (C75xx).
      instructions: of PTX, each counted once, however often a loop runs it.
    """

    registers: int
    stored: int
    loaded: int
    shared: int
    threads: int
    serialised: int
    instructions: int

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor holds at once: by registers, shared memory and threads, 32 at most."""
        warps = -(-self.threads // WARP)
        of_warp = -(-self.registers * WARP // UNIT) * UNIT
        by_registers = REGISTERS // of_warp // warps if of_warp else BLOCKS
        return min(by_registers, SHARED // (self.shared + RESERVED), THREADS // (warps * WARP), BLOCKS)


def resources(ptxas: str, ptx: str, scratch: str) -> Resources:
    """Resources of a kernel by three texts: what ptxas says of it, its PTX, and what Mosaic GPU allocated."""
    used, spills, block, shared = (
        pattern.search(text) for pattern, text in ((_USED, ptxas), (_SPILLS, ptxas), (_BLOCK, ptx), (_SCRATCH, scratch))
    )
    if used is None or spills is None or block is None or shared is None:
        raise ValueError(f"no account of a kernel's resources: {ptxas!r}, {scratch!r}")
    threads = 1
    for axis in block.groups():
        threads *= int(axis or 1)
    return Resources(
        registers=int(used[1]),
        stored=int(spills[1]),
        loaded=int(spills[2]),
        shared=int(shared[1]),
        threads=threads,
        serialised=len(_SERIALISED.findall(ptxas)),
        instructions=len(_INSTRUCTION.findall(ptx)),
    )


class Compiled(NamedTuple):
    """A program for Hopper.

    Attributes:
      program: what XLA compiled.
      kernels: resources of its Mosaic GPU kernels by name, in the order in which they were compiled; the last of those
        that share a name and run on equal shapes stands for all.
    """

    program: Any
    kernels: dict[str, Resources]


def compiled(function: Callable[..., Any], *operands: Any) -> Compiled:
    """`function` compiled for an H100, for operands of these shapes. `Unavailable`: see `aot.hopper_devices`."""
    with _dumped() as folder:
        program = compile_for_hopper(function, *operands)
        found = [(int(of[2]), of[1], path) for path in folder.iterdir() if (of := _KERNEL.match(path.name))]
        kernels = {
            name: resources(*(path.with_suffix(f".{end}").read_text() for end in ("ptxas", "ptx", "resources.txt")))
            for _, name, path in sorted(found)
        }
    return Compiled(program, kernels)


@contextmanager
def _dumped() -> Iterator[Path]:
    """Has Mosaic GPU write what it compiles to a folder; the environment is read at every compilation."""
    with TemporaryDirectory(prefix="ptxas-") as folder:
        before = {name: os.environ.get(name) for name in ("MOSAIC_GPU_DUMP_TO", *_DUMPS)}
        os.environ |= _DUMPS | {"MOSAIC_GPU_DUMP_TO": folder}
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
