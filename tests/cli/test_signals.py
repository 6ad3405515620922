"""Ctrl-C and SIGTERM while a program is compiled, and twice: by processes of their own, as a user sends them."""

import signal
import time

import pytest
from support import tiny
from support.limits import LIMIT_S
from test_sweep_command import finished, started

COMPILES = """
import time
from support import tiny
from capscale.train.executor import Sharded
from capscale.train.loop import LoopIntervals
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(3, 0.0, background))
make = Sharded.train_chunk

def train_chunk(self, state, windows, count, runs):
    if not first:  # as long as XLA is deaf; like it, with the lock of Python given up
        first.append(1)
        return make(self, state, windows, count, runs)
    print("deaf", flush=True)
    time.sleep(3600)

first = {first}
Sharded.train_chunk = train_chunk

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, tokens=60 * 64) for seed in range(2)]
"""


@pytest.fixture
def deaf(tmp_path):
    """Starts a sweep that is deaf from its first chunk on, or from its second."""

    def start(first):
        (tmp_path / "mine.py").write_text(COMPILES.format(first=first))
        (tmp_path / "text.txt").write_bytes(tiny.text())
        process = started(tmp_path, "sweep", "mine.py", "--text", "text.txt", "--jobs", "1", "--out", "out")
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "deaf":
                return process
        raise AssertionError(process.communicate(timeout=LIMIT_S))

    return start


@pytest.mark.ci
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_what_has_made_no_step(number, status, deaf):
    process = deaf(first=[1])
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = finished(process)
    assert code == status
    assert time.monotonic() - began < 30, "the grace that machines give"
    assert "the same command goes on from the last checkpoints" in err


@pytest.mark.ci
def test_the_second_signal_ends_at_once(deaf):
    process = deaf(first=[])
    process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert process.poll() is None, "a step has been made, and is saved at the end of the chunk"
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130
    assert err == "capscale: stopped at once\n"
