"""Which memory setting a program is compiled with: the one that is asked for, what fits, and what is faster then."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from capscale.errors import UserError
from capscale.sweep.display import run_name
from capscale.sweep.preflight import Compiled, Setting, compile_step
from capscale.sweep.slices import Place
from capscale.train.distributed import any_process
from capscale.train.losses import sends_codes
from capscale.train.memory import Gather, Memory
from capscale.train.program import Program
from capscale.train.run import Run, gathers

ANEW = 2.5
"""Micro-batches that one is taken for whose layers are computed anew: by quick estimates of 430M on v5e:4x4 one of them
takes 601 ms, two without 552, and of 800M two of them 1,091, four without 1,006 and eight 1,129 (weights sent once)."""


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

    `tell` hears of each as soon as it is done; each is compiled inside `during` of a word for it. `choose`: where
    `setting` does not fit, with the first on the same devices that does, or one near it that is faster; programs that
    differ in their formats alone take what one of them was given, where they fit with it.
    """
    groups: dict[Program, list[Run]] = {}
    for run in runs:
        groups.setdefault(Program.of(run), []).append(run)
    found, chosen = [], {}
    for place, group in enumerate(groups.values(), 1):
        with during(f"compiling program {place} of {len(groups)}: {run_name(group[0])}"):
            compiled, used = compile_step(group[0], setting, quick), setting
            if choose and not compiled.fits:
                alike = group[0].model, group[0].batch, tuple(_ways(group[0]))
                found_here = _fitting(group[0], chosen[alike], quick) if alike in chosen else None
                if found_here is None:
                    found_here = remedy_here(group[0], compiled, setting, quick)
                    found_here = found_here and faster(group[0], *found_here, quick)
                if found_here is not None:
                    chosen[alike], compiled = found_here
                    used = chosen[alike]
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
    """Likely the fastest that fits on the devices of a setting that does not; None if nothing tried does.

    Parameters are split over all devices, and sent once a step as values, in codes where some format has these, or for
    each layer; with layers computed anew or not; in the fewest micro-batches that fit. Of these the one with the fewest
    micro-batches, of which one with layers computed anew counts as `ANEW`; and then the first in this order.
    """
    devices = shared_by(setting.slice)
    split, best = Setting(setting.slice, devices), None
    for remat in (False, True):
        for gather in _ways(run):
            if remat < setting.memory.remat or (gather != "layer" and devices == 1):
                continue
            below = math.inf if best is None else _rank(best[0]) / (ANEW if remat else 1)
            memory = Memory(remat, gather=gather, unroll=setting.memory.unroll)
            best = fewest_microbatches(run, replace(split, memory=memory), quick, refused, below) or best
    return best


def _rank(setting: Setting) -> float:
    return setting.memory.microbatches * (ANEW if setting.memory.remat else 1)


def faster(run: Run, setting: Setting, compiled: Compiled, quick: bool) -> tuple[Setting, Compiled]:
    """`setting`, which fits, or what fits and is faster by estimate, reached in steps of one option each.

    Fewer devices to a copy of the parameters: less is sent, and among neighbours. Another way to send weights. Layers
    computed anew where that saves micro-batches, for each of which weights are sent. A step is taken as soon as one is
    found, until none is faster; what is not estimated, as of devices that are here, stays as it is.
    """
    tried = {setting}
    while compiled.estimate is not None:
        for near in _neighbours(run, setting):
            if near in tried:
                continue
            tried.add(near)
            found = _fitting(run, near, quick)
            if found is not None and found[1].estimate and found[1].estimate.step < compiled.estimate.step:
                setting, compiled = found
                break
        else:
            break
    return setting, compiled


def _neighbours(run: Run, setting: Setting) -> Iterator[Setting]:
    """Settings that differ in one option, in the order in which they are tried."""
    memory = setting.memory
    if setting.fsdp % 2 == 0:
        yield replace(setting, fsdp=setting.fsdp // 2, memory=memory if setting.fsdp > 2 else _everywhere(memory))
    for gather in _ways(run) if setting.fsdp > 1 else ():
        if gather != memory.gather:
            yield replace(setting, memory=replace(memory, gather=gather))
    if memory.microbatches > 1:
        yield replace(setting, memory=replace(memory, microbatches=memory.microbatches // 2))
        if not memory.remat:
            for parts in (memory.microbatches // 2, memory.microbatches // 4):
                yield replace(setting, memory=replace(memory, remat=True, microbatches=max(parts, 1)))


def _everywhere(memory: Memory) -> Memory:
    """The same of devices that have all parameters each, and send none."""
    return replace(memory, gather="layer")


def _ways(run: Run) -> Iterator[Gather]:
    """How weights of a run can be sent: once a step as values or, where they have some, in codes, and by layer."""
    for gather in ("step", "codes", "layer"):
        if gathers(run.held, gather) == gather and (gather != "codes" or sends_codes(Program.of(run))):
            yield gather


def fewest_microbatches(
    run: Run, setting: Setting, quick: bool, refused: Compiled | None = None, below: float = math.inf
) -> tuple[Setting, Compiled] | None:
    """`setting` in the fewest micro-batches whose step fits, of 1, 2, 4 and so on as far as the batch splits.

    Found by bisection, as fewer ask for more. `refused`: what asked for too much in a single one; as many times fewer
    bytes as it asked for more than there are make the first guess. None where as many as there can be, or as are
    `below` a number, do not fit.
    """
    devices = len(setting.slice.devices())
    powers = [2**power for power in range(run.batch.bit_length())]
    choices = [parts for parts in powers if run.batch % (parts * devices) == 0 and parts < below]
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
