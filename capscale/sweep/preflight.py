"""Preflight: compile the train steps of a sweep for a TPU slice without one, and say what fits and what it takes."""

import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels import bundles, dispatch
from capscale.sweep.display import run_name
from capscale.sweep.estimate import KEPT, Estimate, estimate
from capscale.sweep.schedule import constant_bytes, products_of, read_schedule
from capscale.sweep.slices import Place, Slice
from capscale.train.distributed import any_process
from capscale.train.executor import _sharded
from capscale.train.loop import LoopIntervals
from capscale.train.losses import sends_codes
from capscale.train.memory import AT_ONCE, Memory
from capscale.train.run import Run, gathers
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
        words = [self.slice.flags, *flags, *(["--remat"] if self.memory.remat else [])]
        return " ".join(filter(None, words)) or "all at once"


class Compiled(NamedTuple):
    """Memory and cost of one compiled train step.

    Attributes:
      bytes: of one device's memory: arguments, results that do not reuse them, temporaries and code.
      limit: bytes of memory that a device has.
      seconds: of tracing, lowering and compiling on this machine.
      reason: XLA's own words where it refused for want of memory, else empty.
      estimate: of the time of a step; None where XLA refused, and of devices that are here.
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
    functions = _sharded(Program.of(run, setting.memory, mesh.size).last, mesh)
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
) -> Estimate:
    """Time of a step; kernels' schedules that were read are deleted."""
    text = compiled.as_text()
    assert text is not None
    schedule = read_schedule(text, devices, 1 / MEASURED_EVERY, KEPT if quick else 0)
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


class Checked(NamedTuple):
    """Runs of one program, the setting that it was compiled with, and what that told."""

    runs: list[Run]
    compiled: Compiled
    setting: Setting


def check(
    runs: list[Run],
    setting: Setting,
    *,
    quick: bool,
    tell: Callable[[Checked], None],
    during: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
    choose: bool = False,
) -> list[Checked]:
    """Compiles every distinct program of `runs`.

    `tell` hears of each as soon as it is done; each is compiled inside `during` of a word for it. `choose`: with
    the first setting that fits on the same devices, where `setting` does not.
    """
    groups: dict[Program, list[Run]] = {}
    for run in runs:
        groups.setdefault(Program.of(run), []).append(run)
    found = []
    for place, group in enumerate(groups.values(), 1):
        with during(f"compiling program {place} of {len(groups)}: {run_name(group[0])}"):
            compiled, used = compile_step(group[0], setting, quick), setting
            if choose and not compiled.fits:
                used, compiled = remedy_here(group[0], compiled, setting, quick) or (setting, compiled)
            found.append(Checked(group, compiled, used))
        tell(found[-1])
    return found


def remedy(run: Run, refused: Compiled, setting: Setting, quick: bool) -> tuple[Setting, Compiled] | None:
    """The first setting that fits a run which `setting` does not fit; None if nothing tried does.

    On the same devices first (`remedy_here`), then on the next larger slices.
    """
    return remedy_here(run, refused, setting, quick) or larger_slice(run, setting, quick)


def larger_slice(run: Run, setting: Setting, quick: bool) -> tuple[Setting, Compiled] | None:
    """The smallest larger slice that fits a run, its parameters split over all devices; None where there is none."""
    for larger in setting.slice.larger:
        found = _fitting(run, Setting(larger, shared_by(larger), setting.memory), quick)
        if found is not None:
            return found
    return None


def shared_by(place: Place) -> int:
    """Most devices that can share one copy of the parameters: those of a slice."""
    return len(place.devices()) // place.count


def remedy_here(run: Run, refused: Compiled, setting: Setting, quick: bool) -> tuple[Setting, Compiled] | None:
    """The first setting that fits on the devices of one that does not; None if nothing tried does.

    In the order of what it costs in time: parameters split over all devices and sent once a step, as values, then in
    codes where some format has these, then for each layer; the same with layers computed anew; each in the fewest
    micro-batches that fit.
    """
    devices = shared_by(setting.slice)
    split = Setting(setting.slice, devices, replace(setting.memory, microbatches=1))
    for remat in (False, True):
        for gather in ("step", "codes", "layer"):
            if remat < setting.memory.remat or (gather != "layer" and devices == 1):
                continue
            if gathers(run.held, gather) != gather:
                continue
            if gather == "codes" and not sends_codes(Program.of(run)):
                continue
            found = fewest_microbatches(run, replace(split, memory=Memory(remat, gather=gather)), quick, refused)
            if found is not None:
                return found
    return None


def fewest_microbatches(
    run: Run, setting: Setting, quick: bool, refused: Compiled | None = None
) -> tuple[Setting, Compiled] | None:
    """`setting` in the fewest micro-batches whose step fits, of 1, 2, 4 and so on as far as the batch splits.

    Found by bisection, as fewer ask for more. `refused`: what asked for too much in a single one; as many times fewer
    bytes as it asked for more than there are make the first guess. None where as many as there can be do not fit.
    """
    devices = len(setting.slice.devices())
    choices = [2**power for power in range(run.batch.bit_length()) if run.batch % (2**power * devices) == 0]
    low, high, best = 0, len(choices) - 1, None
    guess = 0 if refused is None else math.ceil(math.log2(max(refused.bytes / refused.limit, 1)))
    middle = min(guess, high)
    while low <= high:
        memory = replace(setting.memory, microbatches=choices[middle])
        found = _fitting(run, replace(setting, memory=memory), quick)
        best = best if found is None else found
        low, high = (low, middle - 1) if found is not None else (middle + 1, high)
        middle = (low + high) // 2
    return best


def _fitting(run: Run, setting: Setting, quick: bool) -> tuple[Setting, Compiled] | None:
    """The setting and its step, where that fits; None too for a batch that does not split this way."""
    try:
        compiled = compile_step(run, setting, quick)
    except UserError:
        return None
    return (setting, compiled) if not any_process(not compiled.fits)[0] else None
