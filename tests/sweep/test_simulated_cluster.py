"""A sweep of 250 runs on slices that are preempted, in a bucket that is slow and refuses: every run ends once."""

from dataclasses import replace

import pytest
from support.cluster.bucket import Weather
from support.cluster.fleet import Fleet
from support.cluster.slices import Plan

from capscale.train import distributed, lease, loop

SMALL = Plan(runs=40, slices=8, preemptions=8, dead=3, stalls=3)
LATE = Weather(late_s=10.0)
SLOW_SEEDS = [pytest.param(k, marks=pytest.mark.slow) for k in (3, 4)]
USUAL_AGAIN = 0.12
"""Share of the time, at most, that steps take which are done again."""


def faults(plan, report):
    """Promises of a sweep that were not kept."""
    found = []
    if report.ended != {"as undisturbed": plan.runs}:
        found.append(f"results: {report.ended}")
    if report.twice:
        found.append(f"{report.twice} runs trained to their end twice")
    if set(report.statuses) - {0, 75, 143}:
        found.append(f"ended for good: {report.statuses}, {report.failures}")
    return found


def happened(report, kind):
    return sum(count for name, count in report.happened.items() if name.startswith(kind))


@pytest.mark.ci
def test_250_runs_40_preemptions_none_lost_none_twice():
    plan = Plan()
    report = Fleet(plan).report()
    assert faults(plan, report) == []
    assert happened(report, "preempted") == 40
    assert happened(report, "a ") == 8
    assert happened(report, "stalled") == 6
    assert {"429", "503", "reset after", "not answered", "given up"} <= set(report.requests)
    assert report.useful_h == pytest.approx(250 * (4 + 6 + 9 + 14 + 20) / 5 / 60)
    assert report.again_h / report.up_h < USUAL_AGAIN
    assert report.other_h / report.up_h < 0.12


@pytest.mark.parametrize("seed", [*(pytest.param(k, marks=pytest.mark.ci) for k in (1, 2)), *SLOW_SEEDS])
@pytest.mark.parametrize("weather", [Weather(), LATE], ids=["true-listings", "late-listings"])
def test_it_holds_by_other_chances(seed, weather):
    plan = replace(SMALL, seed=seed, weather=weather)
    assert faults(plan, Fleet(plan).report()) == []


@pytest.mark.ci
def test_a_seed_gives_one_history():
    plan = replace(SMALL, runs=10, slices=3)
    assert Fleet(plan).report() == Fleet(plan).report()


def never(*args):
    return False


def always(*args):
    return True


BROKEN = {
    "a lease never ends": (lease, "_is_over", never),
    "no lease is respected": (lease, "_is_over", always),
    "nobody notices that a lease was lost": (lease.Lease, "_is_displaced", never),
    "checkpoints are not read": (
        loop,
        "_restore",
        lambda executor, runs, checkpoints: (0, executor.initial_state(runs)),
    ),
    "what passes by itself counts as lasting": (distributed, "is_passing", never),
}


FEW = replace(SMALL, runs=20, slices=5, seed=1, most_h=3.0)
WAITING = replace(SMALL, runs=10, slices=12, preemptions=0, dead=0, stalls=30, seed=1)
"""More workers than runs, so that some wait for those of others, which often stand still."""


SHOWN_BY = {
    "nobody notices that a lease was lost": WAITING,
    "what passes by itself counts as lasting": replace(FEW, seed=2),
}
"""Histories that meet what a fault is about, where `FEW` does not."""


@pytest.mark.ci
def test_workers_that_stand_still_do_nothing_twice():
    assert faults(WAITING, Fleet(WAITING).report()) == []


DEAR = ("a lease never ends",)
"""Faults whose simulation takes a minute."""


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow if what in DEAR else pytest.mark.ci) for what in BROKEN]
)
def test_a_fault_in_what_it_runs_is_seen(what, monkeypatch):
    """Each of these costs runs or hours in some history, and the simulation tells."""
    monkeypatch.setattr(*BROKEN[what])
    report = Fleet(plan := SHOWN_BY.get(what, FEW)).report()
    assert faults(plan, report) or report.again_h / report.up_h > USUAL_AGAIN, report
