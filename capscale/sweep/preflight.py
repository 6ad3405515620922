"""Preflight: compile the train steps of a sweep for a TPU slice without one, and say what fits and what it takes."""

import re
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from capscale.checks import check_whole
from capscale.kernels import bundles, dispatch
from capscale.sweep.estimate import KEPT, Estimate, estimate
from capscale.sweep.schedule import constant_bytes, products_of, read_schedule
from capscale.sweep.slices import Place, Slice
from capscale.train.compiled import sharded
from capscale.train.loop import LoopIntervals
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.run import Run
from capscale.train.sharding import check_reduce, make_mesh
from capscale.train.step import MEASURED_EVERY, Program, RunScalars

QUICK = {"optimization_level": 9, "memory_fitting_level": 9}
"""O0 of both, by XLA's numbers, which every version of JAX takes (efforts before 0.12, names from there on).

XLA compiles several times faster, into a program that often takes more memory, and several times as long by its own
estimate: its time is estimated from what its operations ask for (`estimate`)."""


@dataclass(frozen=True)
class Setting:
    """Where and how a run would be trained; its id does not depend on it."""

    slice: Place
    fsdp: int = 1
    memory: Memory = AT_ONCE

    def __post_init__(self):
        check_whole(self, "fsdp", least=1)

    def __str__(self) -> str:
        options = {"--fsdp": self.fsdp, "--microbatches": self.memory.microbatches}
        flags = [f"{name} {value}" for name, value in options.items() if value > 1]
        flags += [f"--gather {self.memory.gather}"] if self.memory.gather != "layer" else []
        flags += [f"--{name}" for name in ("remat", "unroll") if getattr(self.memory, name)]
        words = [self.slice.flags, *flags]
        return " ".join(filter(None, words)) or "all at once"


class Compiled(NamedTuple):
    """Memory and cost of one compiled train step.

    Attributes:
      bytes: of one device's memory: arguments, results that do not reuse them, temporaries and code.
      limit: bytes of memory that a device has.
      seconds: of tracing, lowering and compiling on this machine.
      reason: XLA's own words where it refused for want of memory, else empty.
      estimate: of the time of a step; None where XLA refused, of devices that are here, and of programs not read.
      products: how many products of codes the program has, and of values (`products_of`).
    """

    bytes: int
    limit: int
    seconds: float
    reason: str
    estimate: Estimate | None = None
    products: Mapping[str, int] = MappingProxyType({})

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return not self.reason and self.bytes <= self.limit


def compile_step(run: Run, setting: Setting, quick: bool = False) -> Compiled:
    """Compiles the chunk of steps that training runs, for the devices of `setting`, from shapes alone.

    `quick` is for slices that are not here: of devices that are, the program is the one that will be run.

    Of rules that start later the part of training from which on all of them hold, which takes most.

    Raises:
      UserError: libtpu is missing, the batch does not split over the slice, or the run cannot be trained at all.
    """
    place = setting.slice
    # Before libtpu is loaded; what is quick does without, as writing schedules takes as long as compiling.
    written = None if quick or place.is_here else bundles.folder()
    mesh, limit = make_mesh(setting.fsdp, place.devices()), place.memory()
    check_reduce(run.optimizer.reduce, devices=mesh.size, fsdp=setting.fsdp, gather=setting.memory.gather)
    began = time.monotonic()
    functions = sharded(Program.of(run, setting.memory, mesh.size).last, mesh)
    symbol = jnp.uint16 if run.model.vocabulary <= 2**16 else jnp.uint32
    chunk = LoopIntervals.of(run, peak=place.peak).chunk
    windows = jax.ShapeDtypeStruct((chunk, run.batch, run.model.context + 1), symbol)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    chip = place.generation if isinstance(place, Slice) else None
    kernels = nullcontext() if place.is_here else dispatch.target("tpu", chip=chip)  # those that a TPU would choose
    with kernels, jax.set_mesh(mesh):  # split over the mesh
        state = jax.eval_shape(functions.initial_state, count)
        pace = jax.eval_shape(lambda: RunScalars(jnp.float32(0), jnp.int32(0)))
        lowered = functions.train_chunk.program.lower(state, windows, count, pace)
    products = products_of(lowered.as_text())
    try:
        compiled = lowered.compile(compiler_options=QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split())
        return Compiled(_needed(reason), limit, time.monotonic() - began, reason[:300], products=products)
    memory = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    if not memory.generated_code_size_in_bytes:  # of CPUs, which count no code and the constants neither
        text = compiled.as_text()
        assert text is not None
        total += constant_bytes(text)
    estimated = _estimated(compiled, place, mesh.size, written, quick) if isinstance(place, Slice) else None
    return Compiled(total, limit, time.monotonic() - began, "", estimated, products)


def _estimated(
    compiled: jax.stages.Compiled, slice_: Slice, devices: int, written: Path | None, quick: bool
) -> Estimate | None:
    """Time of a step; None, with a warning, of a program that is not read. Kernels' schedules are deleted then."""
    text = compiled.as_text()
    assert text is not None
    try:
        schedule = read_schedule(text, devices, 1 / MEASURED_EVERY, KEPT if quick else 0)
    except ValueError as error:  # a compiler that writes differently from those that were seen
        warnings.warn(f"the time of a step is not estimated: {error}", stacklevel=3)
        return None
    found = estimate(schedule, slice_, devices, written, quick=quick)
    for path in [] if written is None else written.iterdir():
        path.unlink()
    return found


def _needed(message: str) -> int:
    """The bytes that XLA asks for in its message, `Used 32.67G of 15.75G hbm`; 0 where it names none."""
    sizes = re.findall(r"(\d+(?:\.\d+)?)([KMG])\b", message)
    return max((int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30}[unit]) for number, unit in sizes), default=0)


def device_hours(run: Run, slice_: Slice, mfu: float) -> float:
    """Chip-hours of a run at that share of the peak."""
    return run.step_flops * run.steps / (mfu * slice_.chip.peak) / 3600
