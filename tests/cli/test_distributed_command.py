"""`capscale sweep` as two processes that train each run together, joined as Slurm or an address joins them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import tiny

from capscale.errors import TRY_AGAIN

TESTS = Path(tiny.__file__).parents[1]
COMMAND = [sys.executable, "-c", "import sys; from capscale.cli import main; sys.exit(main())", "sweep", "mine.py"]
EXPERIMENT = """
import os
from support import tiny

from capscale.errors import TRY_AGAIN
from capscale.data.corpus import Corpus
from capscale.errors import TRY_AGAIN, UserError
from capscale.train.lease import Lease
from capscale.train.loop import LoopIntervals

LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(3, 0.0, background))
read = Corpus.batches

def batches(self, context, batch, seed, first_step, steps, **more):
    if first_step >= 6 and os.environ["INDEX"] == os.environ.get("FAILING"):
        raise UserError("the text is gone")
    return read(self, context, batch, seed, first_step, steps, **more)

Corpus.batches = batches
check = Lease.check

def full(self):
    if os.environ.get("FULL") and self._directory.name == planned[0].run_id:
        raise OSError(28, "No space left on device")
    check(self)

Lease.check = full
planned = []

def runs(ladder, data):
    planned[:] = [tiny.run(data=data, seed=seed) for seed in range(2)]
    return planned
"""


@pytest.fixture
def place(tmp_path):
    """A folder with an experiment of two runs, and a text that each of two processes finds."""
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    for index in range(2):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "text.txt").write_bytes(tiny.text())
    return tmp_path


def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def by_address(index, port):
    return ["--coordinator", f"localhost:{port}", "--processes", "2", "--process-index", str(index)], {}


def by_slurm(index, port):
    variables = {"JOB_ID": 1, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": index, "LOCALID": index}
    environment = {f"SLURM_{name}": str(value) for name, value in variables.items()}
    return ["--distributed"], environment | {"JAX_COORDINATOR_PORT": str(port)}


def sweep(place, out, joined=(lambda index, port: ([], {}),), **environment):
    """Status, output and errors of the processes, as many as there are ways to join."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    common, at, started = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | environment, port(), []
    for index, join in enumerate(joined):
        options, more = join(index, at)
        command = [*COMMAND, "--text", f"{index}/text.txt", "--out", out, "--jobs", "1", *options]
        started.append(
            subprocess.Popen(
                command, cwd=place, env=common | more | {"INDEX": str(index)}, stdout=-1, stderr=-1, text=True
            )
        )
    try:
        found = [(*process.communicate(timeout=400), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(status, out, err) for out, err, status in found]


def losses(out):
    """Of every run, those of its steps and of its result."""
    return {
        path.parent.name: [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        + [json.loads((path.parent / "result.json").read_text())["row"]["loss"]]
        for path in out.glob("runs/*/metrics.jsonl")
    }


@pytest.mark.parametrize(
    ("join", "fsdp"),
    [pytest.param(by_address, "2", marks=pytest.mark.slow), pytest.param(by_slurm, "1", marks=pytest.mark.ci)],
)
def test_two_processes_train_as_one(join, fsdp, place):
    def of_two(index, port):
        options, environment = join(index, port)
        return [*options, "--fsdp", fsdp], environment

    (alone,) = sweep(place, "alone")
    together = sweep(place, "together", [of_two, of_two])
    for status, out, err in (alone, *together):
        assert status == 0, err
        assert f"2 of 2 results in {'alone' if out == alone[1] else 'together'} (2 trained now)" in out
    expected, found = losses(place / "alone"), losses(place / "together")
    assert found.keys() == expected.keys()
    assert len(expected) == 2
    for run_id, of_run in expected.items():
        assert len(of_run) == 5
        np.testing.assert_allclose(found[run_id], of_run, rtol=1e-5)
        result = json.loads((place / "together" / "runs" / run_id / "result.json").read_text())
        assert result["timing"]["devices"] == 2
    assert not list(place.glob("together/runs/*/result.conflict.json"))


@pytest.mark.slow
def test_two_processes_stop_a_loser_together(place):
    """The first one reads what was published; the other ends with it, and so they do where one has stopped before."""
    rates = "".join(f"tiny.run(data=data, tokens=60 * 64, optimizer=Optimizer({rate}))," for rate in (1e-5, 0.02, 0.03))
    code = EXPERIMENT.split("def runs", maxsplit=1)[0] + f"def runs(ladder, data):\n    return [{rates}]\n"
    (place / "mine.py").write_text("from capscale.train.run import Optimizer\n" + code)

    def judged(index, port):
        options, environment = by_address(index, port)
        return [*options, "--stop-losers"], environment

    for trained in (2, 0):
        for status, out, err in sweep(place, "out", [judged, judged]):
            assert status == 0, err
            assert f"2 of 3 results in out ({trained} trained now), 1 stopped early" in out
    (stopped,) = place.glob("out/runs/*/stopped.json")
    assert not (stopped.parent / "result.json").exists()
    assert json.loads(stopped.read_text())["words"].startswith("stopped early at step")


@pytest.mark.slow
def test_two_processes_find_one_memory_setting(place):
    """All at once takes 132 kB of each device: with less they search together, and the first one keeps the find."""

    def fitted(index, port):
        options, environment = by_address(index, port)
        return [*options, "--memory", "auto", "--device-memory", "0.00013"], environment

    for status, out, err in sweep(place, "out", [fitted, fitted]):
        assert status == 0, err
        assert "2 of 2 results in out (2 trained now)" in out
    (kept,) = (json.loads(path.read_text()) for path in place.glob("out/memory/*.json"))
    assert (kept["on"], kept["fsdp"]) == ("2 x cpu", 2)
    assert kept["bytes"] <= 130_000


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["0", "1"])
def test_what_fails_in_one_process_ends_both(failing, place):
    """In the midst of training: the other one would wait for ever, and so would its machine be paid for."""
    found = sweep(place, "out", [by_address, by_address], FAILING=failing)
    expected = [2, TRY_AGAIN] if failing == "0" else [TRY_AGAIN, 2]
    assert [status for status, *_ in found] == expected, [said for *_, said in found]
    assert "the text is gone" in found[int(failing)][2]
    (error,) = (json.loads(path.read_text())["error"] for path in place.glob("out/runs/*/error.json"))
    assert error == "the text is gone"
    assert [status for status, *_ in sweep(place, "out", [by_address, by_address])] == [0, 0], "and goes on"


@pytest.mark.slow
def test_what_fails_in_both_alike_leaves_the_next_run_to_be_trained(place):
    """The first process, which alone holds the lease, says so at a place where the other one asks it."""
    found = sweep(place, "out", [by_address, by_address], FULL="1")
    assert [status for status, *_ in found] == [2, 2]
    for (_, out, said), why in zip(found, ["No space left on device", "another process could not do"], strict=True):
        assert "1 of 2 results in out (1 trained now)" in out
        assert why in said
        assert "Traceback" not in said
    (error,) = (json.loads(path.read_text())["error"] for path in place.glob("out/runs/*/error.json"))
    assert "No space left on device" in error


@pytest.mark.slow
def test_what_one_process_cannot_begin_none_begins(place):
    (place / "1" / "text.txt").unlink()
    (first, _, said), (second, _, why) = sweep(place, "out", [by_address, by_address])
    assert (first, second) == (2, 2)
    assert "text file '1/text.txt' cannot be read" in why
    assert "another process could not do its part" in said
    assert "Traceback" not in why + said
    assert not (place / "out" / "runs").exists()
