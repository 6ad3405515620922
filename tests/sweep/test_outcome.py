"""Groups of runs side by side: who is waited for when asked to stop, and what failures make of the exit status."""

import threading
import time
from concurrent.futures import Future

import pytest
from etils import epath
from jax.errors import JaxRuntimeError
from support import tiny
from support.limits import LIMIT_S

from capscale.cli.training import _conclude
from capscale.errors import TRY_AGAIN, Unavailable, UserError
from capscale.models.ladder import NANO
from capscale.sweep import outcome as outcomes
from capscale.sweep.outcome import Done, Outcome, reason_of, trained_side_by_side
from capscale.sweep.plan import Sweep
from capscale.train import distributed

A, B = ([tiny.run(seed=seed)] for seed in range(2))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(outcomes, "HEARD_S", 0.01)


def side_by_side(work, begun, stop, outcome):
    return [runs for runs, _ in trained_side_by_side([A, B], work, threads=2, begun=begun, stop=stop, outcome=outcome)]


def test_who_compiles_is_not_waited_for():
    compiled, stop, outcome = threading.Event(), threading.Event(), Outcome()
    stop.set()
    try:
        began = time.monotonic()
        assert side_by_side(lambda runs: compiled.wait(LIMIT_S), set(), stop, outcome) == []
        assert time.monotonic() - began < LIMIT_S / 2
        assert outcome.abandoned
    finally:
        compiled.set()


def test_who_has_made_a_step_saves_first():
    compiled, saved, stop, outcome = threading.Event(), threading.Event(), threading.Event(), Outcome()
    stop.set()

    def work(runs):
        if runs is B:
            compiled.wait(LIMIT_S)
        else:
            time.sleep(0.1)
            saved.set()

    try:
        assert side_by_side(work, {A[0].run_id}, stop, outcome) == [A]
        assert saved.is_set()
        assert outcome.abandoned, "the other one compiles"
    finally:
        compiled.set()


def test_nobody_is_left_unless_asked_to_stop():
    outcome = Outcome()
    assert len(side_by_side(lambda runs: Done([], trained=True), set(), threading.Event(), outcome)) == 2
    assert not outcome.abandoned


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([Unavailable("no answer")], TRY_AGAIN),
        ([Unavailable("no answer"), UserError("bad input")], 2),
        ([UserError("bad input")], 2),
        ([ZeroDivisionError()], 2),
        ([], 130),
    ],
)
def test_status_says_whether_to_try_again(errors, status, tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "check_open", lambda out: None)
    sweep, outcome = Sweep("mine", NANO, tiny.corpus().id, (A[0], B[0])), Outcome()
    for error, runs in zip(errors, (A, B), strict=False):
        future: Future[Done] = Future()
        future.set_exception(error)
        assert outcomes.collect(future, runs, sweep, epath.Path(tmp_path), outcome)
    assert _conclude(outcome, 2, epath.Path(tmp_path), 130) == status


def test_processes_that_do_not_answer_may_be_started_again(monkeypatch):
    def lost(flags):
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lost)
    with pytest.raises(Unavailable, match=r"the other processes do not answer \(connection closed by peer"):
        distributed.any_process(True)


@pytest.mark.parametrize(
    ("said", "others", "raised"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:59114", 2, Unavailable),
        ("RESOURCE_EXHAUSTED: out of memory", 2, JaxRuntimeError),
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:59114", 1, JaxRuntimeError),
    ],
)
def test_a_step_that_another_process_has_left_may_be_done_again(said, others, raised, monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: others)
    with pytest.raises(raised, match=said.split(":")[1].strip()), distributed.noticing_the_lost():
        raise JaxRuntimeError(said)


def test_a_device_without_memory_left_has_a_remedy():
    told = reason_of(JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
    assert told.endswith("out of memory; a device has no memory left: --memory auto finds a setting that fits")
    assert reason_of(JaxRuntimeError("INTERNAL: lost")) == "JaxRuntimeError: INTERNAL: lost"
    assert reason_of(UserError("RESOURCE_EXHAUSTED")) == "RESOURCE_EXHAUSTED"
