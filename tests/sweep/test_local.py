"""The local launcher: trains what is missing, survives what fails, and tells what it did."""

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
from etils import epath
from rich.console import Console
from support import tiny

from capscale.estimators import ABRms
from capscale.files import read_json
from capscale.models.ladder import NANO
from capscale.representation import Representation, operand
from capscale.sweep import local
from capscale.sweep.directory import open_directory
from capscale.sweep.display import Display, run_name
from capscale.sweep.local import launch
from capscale.sweep.plan import Sweep
from capscale.sweep.status import counts, read_status
from capscale.train import lease
from capscale.train.lease import Lease, Leases, current_lease
from capscale.train.loop import train
from capscale.train.run import Optimizer

RUNS = tuple(tiny.run(seed=seed) for seed in range(3))
UNTRAINABLE = tiny.run(representation=Representation(operand("nvfp4")))
"""Its groups of 16 do not divide the width of 8."""
DIVERGING = tiny.run(optimizer=Optimizer(1e30))


def start(out, runs=RUNS, screen=None, **options):
    """One start of the sweep, as the command does it."""
    sweep, out = Sweep("mine", NANO, tiny.corpus().id, tuple(runs)), epath.Path(out)
    open_directory(sweep, out, "capscale sweep mine", {})
    with Display(Console(file=screen or io.StringIO(), width=200)) as display:
        return launch(sweep, tiny.corpus(), out, display, jobs=options.pop("jobs", 2), **options)


def rows(out):
    return {path.parent.name: read_json(path, "")["row"] for path in epath.Path(out).glob("runs/*/result.json")}


def state_counts(out):
    return {state: number for state, number in counts(read_status(epath.Path(out))).items() if number}


@pytest.fixture(scope="module", autouse=True)
def short_chunks():
    """The chunks of the other tests, which share their compilation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capscale.train.loop.LoopIntervals.of", classmethod(lambda cls, run, **options: tiny.SHORT))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep trained without a hitch: its directory and what was on the screen."""
    out, screen = tmp_path_factory.mktemp("sweep"), io.StringIO()
    tiny.train_one(RUNS[0], tmp_path_factory.mktemp("first"))  # compiles once, before two threads want to
    outcome = start(out, screen=screen)
    assert (outcome.present, outcome.trained, outcome.failed, outcome.interrupted) == (0, 3, [], False)
    return out, screen.getvalue()


def test_every_run_leaves_a_result_and_a_line(done):
    out, screen = done
    assert rows(out).keys() == {run.run_id for run in RUNS}
    assert state_counts(out) == {"done": 3}
    for number, run in enumerate(RUNS, 1):
        assert f"[{number}/3]" in screen
        assert f"{run_name(run)}: loss " in screen


def test_brackets_of_a_name_are_on_the_bars():
    """Where an estimator is not the usual one; brackets are also how the screen is told of colours."""
    run = tiny.run(representation=Representation(operand("int4", ABRms(a=0.5)), hadamard=8))
    screen = io.StringIO()
    with Display(Console(file=screen, width=200, force_terminal=True)) as display:
        display.begin(1, 0)
        with display.running([run]):
            pass
    assert "tiny int4 [a-b-rms 0.5] seed 0" in run_name(run)
    assert run_name(run) in screen.getvalue()


def test_second_start_trains_nothing(done, monkeypatch):
    out, _ = done
    monkeypatch.setattr(local, "train", pytest.fail)
    screen = io.StringIO()
    outcome = start(out, screen=screen)
    assert (outcome.present, outcome.trained, outcome.failed) == (3, 0, [])
    assert "3 of 3 results are present" in screen.getvalue()


def test_only_the_missing_is_trained(done, tmp_path):
    out, _ = done
    expected = rows(out)
    start(tmp_path)
    (tmp_path / "runs" / RUNS[1].run_id / "result.json").unlink()
    outcome = start(tmp_path)
    assert (outcome.present, outcome.trained) == (2, 1)
    assert rows(tmp_path) == expected


@pytest.mark.slow
def test_population_and_mesh_finish_the_same_sweep(tmp_path):
    """How runs share the devices is no part of what they are."""
    stop = Event()
    stop.set()
    assert start(tmp_path, stop=stop).interrupted
    assert state_counts(tmp_path) == {"to do": 3}
    assert start(tmp_path, mode="population").trained == 3
    assert start(tmp_path, mode="mesh", fsdp=2).present == 3


def test_only_runs_of_one_program_length_and_text_are_alike():
    """A population takes the same number of steps."""
    other = replace(tiny.corpus().id, sha256="0" * 64)
    runs = [*RUNS, tiny.run(tokens=2 * RUNS[0].tokens), tiny.run(data=other), DIVERGING, UNTRAINABLE]
    groups = [{runs.index(run) for run in group} for group in local._alike(runs)]
    assert groups == [{0, 1, 2, 5}, {3}, {4}, {6}]


def test_failures_leave_a_message_and_do_not_stop_the_others(tmp_path, monkeypatch):
    real = local.train

    def train(runs, *args, **kwargs):
        if runs[0] == RUNS[2]:
            raise RuntimeError("out of memory")
        return real(runs, *args, **kwargs)

    monkeypatch.setattr(local, "train", train)
    outcome = start(tmp_path, [UNTRAINABLE, *RUNS, DIVERGING])
    assert (outcome.trained, outcome.diverged, len(outcome.failed)) == (3, 1, 2)
    assert state_counts(tmp_path) == {"done": 2, "diverged": 1, "failed": 2}
    errors = {path.parent.name: read_json(path, "")["error"] for path in tmp_path.glob("runs/*/error.json")}
    assert errors.keys() == {UNTRAINABLE.run_id, RUNS[2].run_id}
    assert errors[RUNS[2].run_id] == "RuntimeError: out of memory"
    assert "group=16 does not divide 8" in errors[UNTRAINABLE.run_id]
    for run_id, message in errors.items():
        assert f"run {run_id}: {message}" in outcome.failed

    monkeypatch.undo()
    outcome = start(tmp_path, [UNTRAINABLE, *RUNS, DIVERGING])
    assert (outcome.present, outcome.trained, len(outcome.failed)) == (3, 1, 1)
    assert not (tmp_path / "runs" / RUNS[2].run_id / "error.json").exists()


@pytest.mark.parametrize("name", ["error.json", "thesis.tex"])
def test_a_runs_directory_that_is_a_link_is_refused_and_nothing_is_written_behind_it(name, tmp_path):
    elsewhere, out, run = tmp_path / "elsewhere", tmp_path / "out", RUNS[0]
    open_directory(Sweep("mine", NANO, tiny.corpus().id, (run,)), epath.Path(out), "capscale sweep mine", {})
    elsewhere.mkdir()
    (elsewhere / name).write_text("theirs")
    (out / "runs").mkdir()
    (out / "runs" / run.run_id).symlink_to(elsewhere)
    (message,) = start(out, [run]).failed
    assert f"{run.run_id} is a link to {elsewhere}" in message
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {name: "theirs"}


def test_altered_result_is_reported(done, tmp_path):
    out, _ = done
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "runs" / RUNS[0].run_id / "result.json"
    loss = str(read_json(epath.Path(path), "")["row"]["loss"])
    path.write_text(path.read_text().replace(loss, f"9{loss[1:]}"))
    outcome = start(tmp_path)
    (message,) = outcome.failed
    assert f"{path} was altered after it was written" in message
    assert outcome.present == 2


def test_damaged_result_is_reported_and_the_others_are_trained(tmp_path):
    start(tmp_path)
    damaged, missing = (tmp_path / "runs" / run.run_id / "result.json" for run in RUNS[:2])
    damaged.write_text("{")
    missing.unlink()
    outcome = start(tmp_path)
    assert (outcome.present, outcome.trained) == (1, 1)
    (message,) = outcome.failed
    assert message.startswith(f"{damaged} is not readable JSON")
    assert damaged.read_text() == "{"
    assert state_counts(tmp_path) == {"done": 2, "damaged": 1}


def test_stopped_sweep_resumes_to_the_same_rows(done, tmp_path, monkeypatch):
    stop = Event()
    real = local.train

    def train(runs, *args, observe, **kwargs):
        def stop_soon(progress):
            stop.set()
            observe(progress)

        return real(runs, *args, observe=stop_soon, **kwargs)

    monkeypatch.setattr(local, "train", train)
    outcome = start(tmp_path, stop=stop)
    assert (outcome.trained, outcome.failed, outcome.interrupted) == (0, [], True)
    assert state_counts(tmp_path) == {"started": 2, "to do": 1}
    monkeypatch.setattr(local, "train", real)
    assert start(tmp_path).trained == 3
    assert rows(tmp_path) == rows(done[0])


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(local, "RETRY_S", 0.05)


def test_a_run_that_another_worker_holds_is_left_to_it_until_it_is_free(done, tmp_path, monkeypatch, impatient):
    directory = epath.Path(tmp_path / "runs" / RUNS[1].run_id)
    open_directory(Sweep("mine", NANO, tiny.corpus().id, RUNS), epath.Path(tmp_path), "", {})
    directory.mkdir(parents=True)
    held, seen, screen = Lease(directory), [], io.StringIO()
    held.__enter__()
    waiting = Display.waiting

    def let_go(self, runs):
        waiting(self, runs)
        seen.append((runs, len(rows(tmp_path)), (directory / "checkpoints").exists()))
        if len(seen) == 3:
            held.__exit__()

    monkeypatch.setattr(Display, "waiting", let_go)
    outcome = start(tmp_path, screen=screen)
    assert seen == [(1, 2, False)] * 3
    assert screen.getvalue().count("waiting for 1 runs that other workers hold") == 1
    assert (outcome.trained, outcome.failed) == (3, [])
    assert rows(tmp_path) == rows(done[0])


def test_waiting_for_another_worker_can_be_stopped(tmp_path, impatient):
    open_directory(Sweep("mine", NANO, tiny.corpus().id, RUNS), epath.Path(tmp_path), "", {})
    stop = Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "waiting", lambda self, runs: stop.set())
        directories = [epath.Path(tmp_path / "runs" / run.run_id) for run in RUNS]
        for directory in directories:
            directory.mkdir(parents=True)
        with Leases(directories):
            outcome = start(tmp_path, stop=stop)
    assert (outcome.trained, outcome.interrupted) == (0, True)


def test_two_launchers_share_a_sweep_and_train_each_run_once(done, tmp_path, monkeypatch, impatient):
    trained, real = [], train

    def counted(runs, source, directories, executor, **kwargs):
        def observe(progress):
            if progress.step == progress.steps:
                trained.append(runs[0].run_id)

        return real(runs, source, directories, executor, **(kwargs | {"observe": observe}))

    monkeypatch.setattr(local, "train", counted)
    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(start, tmp_path) for _ in range(2)]
    results = [outcome.result() for outcome in outcomes]
    assert [result.failed for result in results] == [[], []]
    assert [result.present + result.trained for result in results] == [3, 3]
    assert sorted(trained) == sorted(run.run_id for run in RUNS)
    assert rows(tmp_path) == rows(done[0])


@pytest.mark.ci
def test_a_directory_that_went_away_is_not_made_again(tmp_path, monkeypatch):
    """Removed by hand in the midst: error.json in a new one would have the next start refuse it."""
    out, real = tmp_path / "out", Leases.check

    def check(self):
        shutil.rmtree(out)
        real(self)

    monkeypatch.setattr(Leases, "check", check)
    outcome = start(out, jobs=1)
    assert len(outcome.failed) == 1
    assert "out went away while it was worked in" in outcome.failed[0]
    assert "start the sweep again" in outcome.failed[0]
    assert not out.exists()
    monkeypatch.undo()
    assert start(out, RUNS[:1], jobs=1).trained == 1


@pytest.mark.slow
def test_a_worker_that_lost_its_lease_stops_before_it_writes(done, tmp_path, monkeypatch, impatient):
    """Somebody took the run over while this worker was away: it leaves no metrics, no checkpoint and no result."""
    real, written = Leases.check, []

    def check(self):
        directory = epath.Path(tmp_path / "runs" / RUNS[0].run_id)
        if (directory / "metrics.jsonl").read_text() and not written:
            written.append({path.name for path in (directory / "checkpoints").iterdir()})
            theirs = current_lease(directory) | {"token": "theirs", "place": "elsewhere", "length_s": 0.1}
            (directory / "lease-2.json").write_text(json.dumps(theirs))
            self._leases[0]._renewed -= 1000
            try:
                real(self)
            finally:
                written.append((directory / "metrics.jsonl").read_text().count("\n"))
        real(self)

    monkeypatch.setattr(Leases, "check", check)
    monkeypatch.setattr(lease, "LENGTH_S", 0.1)
    outcome = start(tmp_path, RUNS[:1])
    assert written == [{"3"}, 1]
    assert (outcome.trained, outcome.failed) == (1, [])
    assert rows(tmp_path)[RUNS[0].run_id] == rows(done[0])[RUNS[0].run_id]
