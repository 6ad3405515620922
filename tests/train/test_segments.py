"""Metrics where storage cannot append: segments that are read as one, and are cut to a checkpoint's step."""

import json
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from etils import epath
from support.limits import LIMIT_S

from capscale.errors import UserError
from capscale.train import segments
from capscale.train.lease import LeaseLost
from capscale.train.metrics import Metrics, read_metrics

NEVER = 1e6
"""Seconds that no test waits for: what is stored then, a test has asked for."""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Metrics of a directory that is held to be a bucket."""
    for module in ("segments", "metrics"):
        monkeypatch.setattr(f"capscale.train.{module}.appends", lambda path: False)
    return epath.Path(tmp_path) / "metrics.jsonl"


def write(metrics, *steps):
    for step in steps:
        metrics.write(step, {"loss": np.ones(1, np.float32), "grad_norm": np.ones(1, np.float32)}, 1.0)


def opened(path, keep_to=0, permitted=lambda: None, interval_s=NEVER):
    return Metrics(path, keep_to, permitted=permitted, interval_s=interval_s)


def stored(path):
    return [line["step"] for line in read_metrics(path)]


def files(path):
    """Steps in each file of the directory."""
    return {child.name: [json.loads(line)["step"] for line in child.read_text().splitlines()] for child in found(path)}


def found(path):
    return sorted(path.parent.iterdir())


def test_lines_are_written_aside_and_each_once(path, monkeypatch):
    written = []
    put = segments.write_text
    monkeypatch.setattr(
        segments,
        "write_text",
        lambda to, text: (written.append((threading.current_thread(), len(text))), put(to, text)),
    )
    metrics = opened(path, interval_s=0.02)
    for step in range(1, 6):
        write(metrics, step)
        until = time.monotonic() + LIMIT_S
        while stored(path) != [*range(1, step + 1)] and time.monotonic() < until:
            time.sleep(0.01)
    assert stored(path) == [1, 2, 3, 4, 5]
    assert threading.main_thread() not in [thread for thread, _ in written], "training does not wait for storage"
    assert sum(count for _, count in written) == sum(child.stat().length for child in found(path))
    metrics.finish()
    assert files(path) == {"metrics.jsonl": [1, 2, 3, 4, 5]}


@pytest.mark.parametrize("keep_to", range(10))
def test_a_resumed_run_cuts_what_it_does_again(keep_to, path):
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')  # of an earlier version, cut short by a crash
    metrics = opened(path, keep_to=2)
    for part in ((3, 4), (5, 6), (7, 8)):
        write(metrics, *part)
        metrics.flush()
    write(metrics, 9)  # which the crash loses
    assert stored(path) == [1, 2, 3, 4, 5, 6, 7, 8]
    resumed = opened(path, keep_to)
    kept = [*range(1, min(keep_to, 8) + 1)]
    assert stored(path) == kept
    write(resumed, 20, 21)
    resumed.finish()
    assert files(path) == {"metrics.jsonl": [*kept, 20, 21]}


def test_full_groups_are_folded_and_read_the_same(path, monkeypatch):
    monkeypatch.setattr(segments, "GROUP", 4)
    metrics = opened(path)
    for step in range(1, 11):
        write(metrics, step)
        metrics.flush()
        assert stored(path) == [*range(1, step + 1)]
    assert files(path) == {
        "metrics-00001.jsonl": [1, 2, 3, 4],
        "metrics-00005.jsonl": [5, 6, 7, 8],
        "metrics-00009.jsonl": [9],
        "metrics-00010.jsonl": [10],
    }
    resumed = opened(path, keep_to=6)
    assert files(path) == {"metrics-00001.jsonl": [1, 2, 3, 4], "metrics-00005.jsonl": [5, 6]}
    for step in range(7, 12):
        write(resumed, step)
        resumed.flush()
    assert stored(path) == [*range(1, 12)]
    assert [*files(path)] == [f"metrics-{number:05d}.jsonl" for number in (1, 5, 9, 13)]


@pytest.mark.parametrize("end", ["flush", "finish"])
def test_a_crash_between_the_one_file_and_the_many_doubles_nothing(end, path, monkeypatch):
    monkeypatch.setattr(segments, "GROUP", 3)
    metrics = opened(path)
    for step in (1, 2):
        write(metrics, step)
        metrics.flush()

    def refuse(*args, **kwargs):
        raise OSError("gone")

    monkeypatch.setattr(type(path), "unlink", refuse)
    write(metrics, 3)
    with pytest.raises((UserError, OSError), match="gone"):
        getattr(metrics, end)()
    monkeypatch.undo()
    assert len(found(path)) > 1
    assert stored(path) == [1, 2, 3]
    again = opened(path, keep_to=2)
    write(again, 3, 4)
    again.finish()
    assert stored(path) == [1, 2, 3, 4]


def test_what_storage_refuses_is_tried_again_and_raised_by_the_next_flush(path, monkeypatch):
    tried = threading.Event()

    def refuse(to, text):
        tried.set()
        raise UserError("no answer")

    monkeypatch.setattr(segments, "write_text", refuse)
    metrics = opened(path, interval_s=0.01)
    write(metrics, 1)
    assert tried.wait(LIMIT_S)
    write(metrics, 2)
    with pytest.raises(UserError, match="no answer"):
        metrics.flush()
    monkeypatch.undo()
    metrics.flush()
    assert stored(path) == [1, 2]
    metrics.finish()


def test_who_was_displaced_writes_no_more(path):
    lost = threading.Event()

    def permitted():
        lost.set()
        raise LeaseLost("taken over")

    with suppress(LeaseLost), opened(path, permitted=permitted, interval_s=0.01) as metrics:
        write(metrics, 1)
        assert lost.wait(LIMIT_S)
        raise LeaseLost("taken over")
    assert found(path) == []


def test_the_last_lines_before_an_error_are_kept(path):
    with suppress(ZeroDivisionError), opened(path) as metrics:
        write(metrics, 1)
        raise ZeroDivisionError
    assert stored(path) == [1]


def test_segments_that_came_from_a_bucket_go_on_as_one_file(tmp_path):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    segments.segment(path, 1).write_text('{"step": 1}\n')
    segments.segment(path, 2).write_text('{"step": 2}\n{"step": 3}\n')
    write(opened(path, keep_to=2), 4)
    assert files(path) == {"metrics.jsonl": [1, 2, 4]}
