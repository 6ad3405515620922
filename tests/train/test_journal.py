"""Log of each start of a run: where it went on from, what is done again, and how it ended."""

import pytest
from etils import epath
from support import tiny

from capscale.train import loop
from capscale.train.journal import Journal, read_journals
from capscale.train.lease import LeaseLost, Leases


def told(directory):
    return [[(said["event"], said.get("step")) for said in start] for start in read_journals(epath.Path(directory))]


def test_every_start_leaves_a_log(tmp_path, monkeypatch):
    run = tiny.run()
    at = tiny.interrupt([run], [tmp_path], tiny.one_device(run), at=6)
    assert told(tmp_path) == [[("start", 0), ("stopped", at)]]

    def fail(*args):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(loop.TimedSaves, "save", fail)
        with pytest.raises(RuntimeError):
            tiny.train_one(run, tmp_path)
    tiny.train_one(run, tmp_path)
    assert told(tmp_path) == [
        [("start", 0), ("stopped", 6)],
        [("start", 6), ("failed", 9)],
        [("start", 6), ("done", 12)],
    ]
    first, second, third = read_journals(epath.Path(tmp_path))
    assert second[1]["error"] == "out of memory"
    assert (first[0]["again_steps"], second[0]["again_steps"], third[0]["again_steps"]) == (0, 0, 3)
    assert third[0]["again_device_seconds"] > 0
    assert {"host", "pid", "device", "capscale", "at", "devices"} <= third[0].keys()


def test_whoever_has_lost_the_run_writes_nothing(tmp_path, monkeypatch):
    gone = []

    def check_here(self):
        if gone:
            raise LeaseLost("taken over")

    def check(self):
        gone.append(True)
        raise LeaseLost("taken over")

    monkeypatch.setattr(Leases, "check_here", check_here)
    monkeypatch.setattr(Leases, "check", check)
    with pytest.raises(LeaseLost):
        tiny.train_one(tiny.run(), tmp_path)
    assert told(tmp_path) == [[("start", 0)]]


def test_lines_that_are_none_are_left_out(tmp_path):
    directory = epath.Path(tmp_path)
    for number in (10, 2):
        Journal(directory, number).tell("start", step=number)
    (directory / "log-3.jsonl").write_bytes(b'{"event": "start", "step": 3}\n[]\n{"event": 3}\n\xff\n{"ev')
    assert told(tmp_path) == [[("start", 2)], [("start", 3)], [("start", 10)]]
