"""Settings that fit and are faster: steps of one option each, by a model of memory and time whose best is known."""

import math
from dataclasses import replace

import pytest
from support import tiny

from capscale.representation import Representation, operand
from capscale.sweep import choosing
from capscale.sweep.choosing import check, faster
from capscale.sweep.estimate import Estimate
from capscale.sweep.preflight import Compiled, Setting
from capscale.sweep.slices import Slice, find_slice
from capscale.train.memory import Memory

RUN = tiny.run(batch=64, representation=Representation(operand("int4")))
SLICE = find_slice("v5e:4x4")


def seconds(setting):
    """Sixteen to compute, a third more anew; weights are sent by fifteen sixteenths, and for each micro-batch."""
    memory = setting.memory
    sent = (setting.fsdp - 1) / setting.fsdp * {"layer": memory.microbatches, "step": 1, "codes": 0.9}[memory.gather]
    return 16 * (4 / 3 if memory.remat else 1) + 4 * sent


def bytes_of(setting):
    """Parameters by devices, all of them where they are sent once; and what layers keep, a fourth of it anew."""
    memory = setting.memory
    parameters = {"layer": 12 / setting.fsdp, "step": 6 + 12 / setting.fsdp, "codes": 5 + 12 / setting.fsdp}
    return parameters[memory.gather] + 32 / memory.microbatches / (4 if memory.remat else 1)


@pytest.fixture
def pretend(monkeypatch):
    """A compiler by these models, of chips with so many bytes; the settings that it was asked for."""
    monkeypatch.setattr(Slice, "devices", lambda self: [None] * self.chips)
    calls = []

    def with_limit(limit, estimated=True):
        def compile_step(run, setting, quick=False):
            calls.append((run, setting))
            found = Estimate(seconds(setting), 0.0, 0.0, 0.0, 0.0, by_schedule=True, units={})
            need = bytes_of(setting)
            return Compiled(need, limit, 1.0, "", found if estimated and need <= limit else None)

        monkeypatch.setattr(choosing, "compile_step", compile_step)
        return calls

    return with_limit


@pytest.mark.parametrize("limit", [10, 13, 16, 20, 24, 36, 43])
def test_nothing_near_is_faster_and_nothing_is_compiled_twice(limit, pretend):
    """From the first that fits; against all neighbours of what is found, and what was there before."""
    calls = pretend(limit)
    (first,) = check([RUN], Setting(SLICE), quick=True, tell=lambda _: None, choose=True)
    (found,) = {first.setting}
    assert first.compiled.fits
    assert bytes_of(found) <= limit
    near = [each for each in choosing._neighbours(RUN, found) if bytes_of(each) <= limit]
    assert all(seconds(found) <= seconds(each) for each in near)
    assert len(calls) <= 24


def test_fewer_devices_share_and_layers_are_computed_anew_for_fewer_micro_batches(pretend):
    """Of all settings by brute force: eight micro-batches of layers take longer than layers anew in one."""
    pretend(20)
    start = Setting(SLICE, 16, Memory(microbatches=4, gather="layer"))
    found, compiled = faster(RUN, start, choosing.compile_step(RUN, start), True)
    every = [
        Setting(SLICE, fsdp, Memory(remat, parts, gather))
        for fsdp in (1, 2, 4, 8, 16)
        for remat in (False, True)
        for parts in (1, 2, 4)
        for gather in (("step", "codes", "layer") if fsdp > 1 else ("layer",))
    ]
    best = min((each for each in every if bytes_of(each) <= 20), key=seconds)
    assert compiled.estimate is not None
    assert compiled.estimate.step == seconds(found) == seconds(best) < seconds(start)


@pytest.mark.parametrize(("parts", "expected"), [(2, Memory(microbatches=2)), (4, Memory(remat=True))])
def test_layers_anew_count_between_two_and_four_micro_batches(parts, expected, monkeypatch, pretend):
    """Where weights are sent by layer, in so many micro-batches or more, or in one of layers computed anew."""
    pretend(0)

    def compile_step(run, setting, quick=False):
        memory = setting.memory
        fits = memory.gather == "layer" and (memory.remat or memory.microbatches >= parts)
        return Compiled(0 if fits else 2, 1, 1.0, "")

    monkeypatch.setattr(choosing, "compile_step", compile_step)
    found = choosing.remedy_here(RUN, Compiled(2, 1, 1.0, ""), Setting(SLICE), True)
    assert found is not None
    assert found[0] == Setting(SLICE, 16, expected)


def test_what_is_not_estimated_stays(pretend):
    calls = pretend(math.inf, estimated=False)
    start = Setting(SLICE, 16, Memory(microbatches=4, gather="step"))
    compiled = choosing.compile_step(RUN, start)
    calls.clear()
    assert faster(RUN, start, compiled, True) == (start, compiled)
    assert calls == []


def test_layers_that_are_asked_to_be_computed_anew_are(pretend):
    pretend(math.inf)
    start = Setting(SLICE, 16, Memory(remat=True, microbatches=2))
    found, _ = faster(RUN, start, choosing.compile_step(RUN, start), True)
    assert (found.fsdp, found.memory.remat) == (1, True)


def test_programs_of_one_model_share_a_search(pretend):
    """The second takes what the first was given; where less memory is needed too, and not where it does not fit."""
    calls = pretend(20)
    others = [replace(RUN, representation=Representation(operand(name))) for name in ("int4", "int3", "dense")]
    found = check(others, Setting(SLICE), quick=True, tell=lambda _: None, choose=True)
    assert found[0].setting == found[1].setting
    by_run = [sum(1 for run, _ in calls if run == each) for each in others]
    assert by_run[1] == 2, "all at once, and what the first was given"
    assert by_run[2] > 2, "it has no codes, so that other settings are open to it"
