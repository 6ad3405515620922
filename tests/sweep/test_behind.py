"""The rule that stops a run: held to brute force over single steps, and to what it must never do."""

import random
from itertools import pairwise

import numpy as np
import pytest

from capscale.sweep.behind import LEAST, SEEN, Finished, allowed, gained, look_steps, mean_between, verdict

STEPS = 200


def lines(losses, rng):
    """Means over chunks of at most a window, and the losses of every step behind them."""
    inner = sorted({*rng.sample(range(1, STEPS), 60), *range(10, STEPS, 10)})
    return [(last, float(np.mean(losses[first:last]))) for first, last in pairwise([0, *inner, STEPS])]


def falling(rng, height, end):
    return [height * (1 - step / STEPS) ** 1.5 + end + rng.gauss(0, 0.02) for step in range(STEPS)]


def test_means_over_windows_are_those_of_single_steps_where_chunks_end_there():
    rng = random.Random(0)
    losses = falling(rng, 3, 2)
    told = lines(losses, rng)
    for first, last in ((0, 20), (30, 50), (180, 200)):
        assert mean_between(told, first, last) == pytest.approx(np.mean(losses[first:last]))
    within = mean_between([(10, 4.0), (30, 1.0)], 5, 25)
    assert within == pytest.approx((5 * 4 + 15 * 1) / 20), "a chunk across an end counts by its steps inside"
    assert mean_between(told[:-1], 180, 200) is None, "the end is not told"
    assert mean_between([(10, 4.0), (20, None)], 5, 20) is None, "a loss that was not finite"
    assert mean_between([(40, 1.0)], 20, 40) is None, "too coarse to tell them apart"


def brute(own, others, step, factor):
    """The same from losses of single steps, written down from the words of the rule."""
    width = round(0.1 * STEPS)

    def mean(losses, last):
        return sum(losses[last - width : last]) / width

    _, best = min(others, key=lambda pair: pair[0])
    still = mean(best, step) - mean(best, STEPS)
    gains = [mean(losses, step) - mean(losses, STEPS) for _, losses in others]
    most = max([a / b - 1 for a in gains for b in gains if b > 0] or [0.0])
    behind = mean(own, step) - mean(best, step)
    return still > 0 and behind > max(factor, SEEN * most) * still and behind > LEAST * mean(best, step)


def test_verdicts_are_those_of_brute_force():
    rng, told = random.Random(1), []
    for _ in range(300):
        others = [(rng.uniform(2, 3), falling(rng, rng.uniform(0.5, 3), 2)) for _ in range(rng.randint(1, 3))]
        own = falling(rng, rng.uniform(0.5, 4), rng.uniform(2, 5))
        step, factor = rng.choice(look_steps(STEPS)), rng.choice([0.5, 1.0, 2.0])
        group = {str(number): Finished(lines(losses, rng), loss) for number, (loss, losses) in enumerate(others)}
        until = [line for line in lines(own, rng) if line[0] <= step]
        found = verdict(until, group, [group], step=step, steps=STEPS, factor=factor)
        assert (found is not None) == brute(own, others, step, factor)
        told.append(found is not None)
        if found:
            assert group[found.against].loss == min(each.loss for each in group.values())
            assert f"step {step} of {STEPS}" in found.words
    assert 60 < sum(told) < 240, "both verdicts were asked for"


def test_who_leads_or_is_alone_or_unfinished_goes_on():
    rng = random.Random(2)
    best = Finished(lines(falling(rng, 2, 2), rng), 2.0)
    bad = [(last, 9.0) for last in range(10, STEPS + 1, 10)]
    assert verdict(bad, {"a": best}, [{"a": best}], step=100, steps=STEPS)
    assert verdict(bad, {}, [{"a": best}], step=100, steps=STEPS) is None, "at its seed nobody has finished"
    assert verdict(bad[:9], {"a": best}, [{"a": best}], step=100, steps=STEPS) is None, "its own lines stop short"
    assert verdict(best.lines, {"a": Finished(bad, 1.0)}, [], step=100, steps=STEPS) is None, "it leads"
    flat = Finished([(last, 3.0) for last in range(10, STEPS + 1, 10)], 3.0)
    assert verdict(bad, {"a": flat}, [{"a": flat}], step=100, steps=STEPS) is None, "its rival gained nothing to go by"


def test_runs_that_came_back_make_the_rule_patient():
    """Of two finished runs one gained three times as much from the middle on: it was behind by two gains."""
    steps = range(10, STEPS + 1, 10)
    slow = Finished([(last, 3.0 - last / STEPS) for last in steps], 2.0)
    fast = Finished([(last, 5.0 - 3 * last / STEPS) for last in steps], 2.0)
    assert gained(slow.lines, 100, STEPS) == pytest.approx(0.5)
    assert allowed([{"a": slow}, {"b": fast}], 100, STEPS) == 1.0, "at different seeds, they do not compare"
    assert allowed([{"a": slow, "b": fast}], 100, STEPS) == pytest.approx(2 * SEEN)


def test_looks_are_at_steps_in_the_midst():
    assert look_steps(STEPS) == [40, 60, 80, 100, 120, 140, 160]
    assert look_steps(3) == [1, 2]
    assert look_steps(1) == []
