"""Preflight: compile the train steps of a sweep for a TPU slice without one, and say what fits and what it takes."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels import bundles, dispatch
from capscale.sweep.display import run_name
from capscale.sweep.estimate import Estimate, estimate
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import Slice
from capscale.train.executor import _sharded
from capscale.train.flops import flops_per_token
from capscale.train.loop import LoopIntervals
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.run import Run
from capscale.train.sharding import make_mesh
from capscale.train.step import MEASURED_EVERY, Program, RunScalars

QUICK = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
"""XLA compiles about three times faster, into a program that takes longer and often more memory. Kernels' schedules, of
which the writing takes as long again as compiling does, are not asked for then."""


@dataclass(frozen=True)
class Setting:
    """Where and how a run would be trained; its id does not depend on it."""

    slice: Slice
    fsdp: int = 1
    memory: Memory = AT_ONCE

    def __post_init__(self):
        check_whole(self, "fsdp", least=1)

    def __str__(self) -> str:
        options = {"--fsdp": self.fsdp, "--microbatches": self.memory.microbatches}
        flags = [f"{name} {value}" for name, value in options.items() if value > 1]
        return " ".join([f"--topology {self.slice.name}", *flags, *(["--remat"] if self.memory.remat else [])])


class Compiled(NamedTuple):
    """Memory and cost of one compiled train step.

    Attributes:
      bytes: of one device's memory: arguments, results that do not reuse them, temporaries and code.
      limit: bytes of memory that a device has.
      seconds: of tracing, lowering and compiling on this machine.
      reason: XLA's own words where it refused for want of memory, else empty.
      estimate: of the time of a step; None where XLA refused.
    """

    bytes: int
    limit: int
    seconds: float
    reason: str
    estimate: Estimate | None = None

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return not self.reason and self.bytes <= self.limit


def compile_step(run: Run, setting: Setting, quick: bool = False) -> Compiled:
    """Compiles the chunk of steps that training runs, for the slice of `setting`, from shapes alone.

    Raises:
      UserError: libtpu is missing, the batch does not split over the slice, or the run cannot be trained at all.
    """
    written = None if quick else bundles.folder()  # before libtpu is loaded
    devices = setting.slice.devices()
    mesh = make_mesh(setting.fsdp, devices)
    limit = setting.slice.chip.hbm * setting.slice.chips // len(devices)
    began = time.monotonic()
    functions = _sharded(Program.of(run, setting.memory, mesh.size), mesh)
    symbol = jnp.uint16 if run.model.vocabulary <= 2**16 else jnp.uint32
    chunk = LoopIntervals.of(run, peak=setting.slice.peak).chunk
    windows = jax.ShapeDtypeStruct((chunk, run.batch, run.model.context + 1), symbol)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    with dispatch.target("tpu"), jax.set_mesh(mesh):  # the kernels that a TPU would choose, split over the mesh
        state = jax.eval_shape(functions.initial_state, count)
        pace = jax.eval_shape(lambda: RunScalars(jnp.float32(0), jnp.int32(0)))
        lowered = functions.train_chunk.lower(state, windows, count, pace)
    try:
        compiled = lowered.compile(compiler_options=QUICK if quick else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split())
        return Compiled(_needed(reason), limit, time.monotonic() - began, reason[:300])
    memory = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    text = compiled.as_text()
    assert text is not None
    schedule = read_schedule(text, mesh.size, share_of_conditionals=1 / MEASURED_EVERY)
    estimated = estimate(schedule, setting.slice, mesh.size, written)
    for path in [] if written is None else written.iterdir():
        path.unlink()
    return Compiled(total, limit, time.monotonic() - began, "", estimated)


def _needed(message: str) -> int:
    """The bytes that XLA asks for in its message, `Used 32.67G of 15.75G hbm`; 0 where it names none."""
    sizes = re.findall(r"(\d+(?:\.\d+)?)([KMG])\b", message)
    return max((int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30}[unit]) for number, unit in sizes), default=0)


def device_hours(run: Run, slice_: Slice, mfu: float) -> float:
    """Chip-hours of a run at that share of the peak."""
    return flops_per_token(run.model) * run.trained_tokens / (mfu * slice_.chip.peak) / 3600


class Checked(NamedTuple):
    """Runs of one program, and what compiling it told."""

    runs: list[Run]
    compiled: Compiled


def check(
    runs: list[Run],
    setting: Setting,
    quick: bool,
    tell: Callable[[Checked], None],
    during: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> list[Checked]:
    """Compiles every distinct program of `runs`.

    `tell` hears of each as soon as it is done; each is compiled inside `during` of a word for it.
    """
    groups: dict[Program, list[Run]] = {}
    for run in runs:
        groups.setdefault(Program.of(run), []).append(run)
    found = []
    for place, group in enumerate(groups.values(), 1):
        with during(f"compiling program {place} of {len(groups)}: {run_name(group[0])}"):
            found.append(Checked(group, compile_step(group[0], setting, quick)))
        tell(found[-1])
    return found


def remedy(run: Run, refused: Compiled, setting: Setting, quick: bool) -> tuple[Setting, Compiled] | None:
    """The first setting that fits a run which `setting` does not fit; None if nothing tried does.

    On the same slice, in the order of what it costs in time: parameters split over all devices, micro-batches, layers
    computed anew; then the next larger slices, each with the parameters split. Micro-batches that would still ask for
    more than there is, going by what was asked for before, are not compiled.
    """
    for candidate in _candidates(run, setting, refused):
        try:
            compiled = compile_step(run, candidate, quick)
        except UserError:
            continue  # a batch that does not split this way
        if compiled.fits:
            return candidate, compiled
    return None


def _candidates(run: Run, setting: Setting, refused: Compiled) -> Iterator[Setting]:
    devices = len(setting.slice.devices())
    factor = 2 ** max(1, math.ceil(math.log2(max(refused.bytes, 1) / refused.limit)))
    for remat in (False, True):
        for parts in (1, factor, 2 * factor):
            memory = Memory(remat or setting.memory.remat, parts * setting.memory.microbatches)
            candidate = Setting(setting.slice, devices, memory)
            if candidate != setting and run.batch % (memory.microbatches * devices) == 0:
                yield candidate
    for larger in setting.slice.larger:
        yield Setting(larger, len(larger.devices()), setting.memory)
