"""Decoders that a command measures side by side: in order, refused as one alone is, and few at a time."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from capscale.cli import trained
from capscale.errors import UserError


def test_results_come_in_order_and_two_at_a_time(monkeypatch):
    monkeypatch.setattr(trained, "_at_once", lambda sources: 2)
    both, done = threading.Barrier(2, timeout=60), []

    def measure(number):
        both.wait()  # neither goes on without the other
        done.append(number)
        return number

    assert list(trained._side_by_side(measure, range(6))) == list(range(6))
    assert sorted(done) == list(range(6))


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_what_one_raises_is_raised_and_no_further_one_begun(monkeypatch, error):
    monkeypatch.setattr(trained, "_at_once", lambda sources: 1)
    begun = []

    def measure(number):
        begun.append(number)
        raise error("no")

    with pytest.raises(error):
        list(trained._side_by_side(measure, range(100)))
    assert len(begun) < 100


def test_large_decoders_are_measured_one_at_a_time(monkeypatch):
    small, large = (SimpleNamespace(params={"w": np.broadcast_to(np.float32(0), n)}) for n in (10, trained.SMALL + 1))
    monkeypatch.setattr(trained.os, "cpu_count", lambda: 8)
    assert trained._at_once([small, small]) == trained.AT_ONCE
    assert trained._at_once([small, large]) == 1
    monkeypatch.setattr(trained.os, "cpu_count", lambda: 1)
    assert trained._at_once([small, small]) == 1
