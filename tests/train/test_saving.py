"""When checkpoints are due: by the time that they take, by a clock that the tests set."""

import math
from dataclasses import replace

import pytest
from support import tiny

from capscale.train.loop import LoopIntervals
from capscale.train.saving import BY_TIME, FIRST_S, MOST, SaveTimer, Saving, interval_between

HOUR = 3600.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def saved(timer, clock, seconds):
    timer.begin()
    clock.now += seconds
    timer.complete()


@pytest.mark.parametrize("save_s", [0.1, 1, 14, 60])
@pytest.mark.parametrize("mtbf_s", [HOUR, 24 * HOUR])
def test_the_interval_loses_least_unless_checkpoints_would_take_too_much(save_s, mtbf_s):
    def lost(interval_s):  # of a second of training: what checkpoints cost, and half an interval a failure
        return save_s / interval_s + interval_s / (2 * mtbf_s)

    found = interval_between(save_s, mtbf_s)
    assert save_s / found <= MOST + 1e-12
    assert lost(found) < lost(1.1 * found)
    if save_s / found < MOST - 1e-6:
        assert lost(found) < lost(0.9 * found)


def test_the_first_checkpoint_is_early_and_the_others_by_their_mean_time(clock):
    timer = SaveTimer(None, 24 * HOUR, clock)
    clock.now = FIRST_S
    assert not timer.is_due
    clock.now += 1
    assert timer.is_due
    saved(timer, clock, 10)
    assert timer.interval_s == interval_between(10, 24 * HOUR)
    saved(timer, clock, 30)
    assert timer.interval_s == interval_between(20, 24 * HOUR)
    clock.now += timer.interval_s
    assert not timer.is_due
    clock.now += 1
    assert timer.is_due


def test_none_is_due_while_one_is_written(clock):
    timer = SaveTimer(None, now=clock)
    timer.begin()
    clock.now += 1e6
    assert not timer.is_due, "training would wait for the one before"
    timer.complete()
    assert not timer.is_due
    clock.now += timer.interval_s + 1
    assert timer.is_due


def test_a_fixed_interval_is_kept_whatever_a_checkpoint_takes(clock):
    timer = SaveTimer(300.0, now=clock)
    timer.begin()
    clock.now += 200
    assert not timer.is_due
    clock.now += 101
    assert timer.is_due
    timer.complete()
    assert timer.interval_s == 300
    assert timer.is_due


def test_the_loop_takes_the_interval_that_is_asked_for():
    run = tiny.run()
    assert LoopIntervals.of(run, saving=Saving(5.0, HOUR)) == replace(
        LoopIntervals.of(run), checkpoint_s=5, mtbf_s=HOUR
    )
    assert LoopIntervals.of(run).checkpoint_s is BY_TIME.interval_s is None
    assert math.isclose(LoopIntervals.of(run).mtbf_s, 24 * HOUR)


def test_a_run_saves_as_often_as_its_timer_says(tmp_path, monkeypatch):
    steps = []
    save = "capscale.train.checkpoint.Checkpoints.save"
    monkeypatch.setattr(save, lambda self, step, state: steps.append(step))
    tiny.train_one(tiny.run(), tmp_path / "often", intervals=LoopIntervals(3, 0.0))
    assert steps == [3, 6, 9, 12]
    steps.clear()
    tiny.train_one(tiny.run(), tmp_path / "by-time", intervals=LoopIntervals(3))
    assert steps == [12], "twelve steps are over before the first is due"
