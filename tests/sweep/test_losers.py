"""Runs that are stopped early: which may be, what every reader says of them, and that they lose nothing by it."""

import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from etils import epath
from rich.console import Console
from support import tiny

from capscale.analysis.reading.choices import Choices
from capscale.analysis.rows import read_sweep
from capscale.artifacts import read_stopped
from capscale.errors import Unavailable, UserError
from capscale.models.ladder import NANO
from capscale.monitor.page import page
from capscale.sweep import losers
from capscale.sweep.directory import open_directory
from capscale.sweep.display import Display
from capscale.sweep.history import read_history, totals
from capscale.sweep.local import launch, mode_of
from capscale.sweep.losers import Trial, by_promise, judges, trials
from capscale.sweep.plan import Sweep
from capscale.sweep.status import counts, device_hours, read_status
from capscale.train.metrics import read_metrics
from capscale.train.run import Optimizer

STEPS = 60


def trial(rate, seed=0, **changes):
    return tiny.run(tokens=STEPS * 64, optimizer=Optimizer(rate), seed=seed, **changes)


BAD, GOOD, FAIR = (trial(rate) for rate in (1e-5, 0.02, 0.03))
ELSEWHERE = tiny.dense_run(tokens=STEPS * 64)
"""Of another format: no trial, whatever its loss."""
SWEEP = Sweep("mine", NANO, tiny.corpus().id, (BAD, GOOD, FAIR, ELSEWHERE))


def start(out, runs=SWEEP.runs, *, stopping: bool, screen=None):
    """One start of the sweep, as the command does it, for some of its runs."""
    out = epath.Path(out)
    open_directory(SWEEP, out, "capscale sweep mine", {})
    with Display(Console(file=screen or io.StringIO(), width=400)) as display:
        chosen = replace(SWEEP, runs=tuple(runs))
        judge = judges(SWEEP, out) if stopping else None
        return launch(chosen, tiny.corpus(), out, display, jobs=1, judge=judge)


def told(out, run):
    """Row, metrics and the loss at each step of a run."""
    directory = epath.Path(out) / "runs" / run.run_id
    result = json.loads((directory / "result.json").read_text())
    return result["row"], result["metrics"], [(line["step"], line["loss"]) for line in _lines(directory)]


def _lines(directory) -> Iterable[dict]:
    return read_metrics(directory / "metrics.jsonl")


@pytest.fixture(scope="module", autouse=True)
def short_chunks():
    with pytest.MonkeyPatch.context() as patch:
        short = replace(tiny.SHORT, chunk=1, checkpoint_s=1e9)
        patch.setattr("capscale.train.loop.LoopIntervals.of", classmethod(lambda cls, run, **options: short))
        yield


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The sweep with nothing stopped."""
    out = tmp_path_factory.mktemp("calm")
    assert start(out, stopping=False).trained == len(SWEEP.runs)
    return out


@pytest.mark.ci
def test_a_loser_is_stopped_is_told_of_and_goes_on_as_if_it_never_was(calm, tmp_path):
    screen = io.StringIO()
    outcome = start(tmp_path, stopping=True, screen=screen)
    assert (outcome.trained, outcome.stopped, outcome.failed, outcome.interrupted) == (3, 1, [], False)
    lost = read_stopped(epath.Path(tmp_path) / "runs" / BAD.run_id, BAD.run_id)
    assert lost is not None
    assert (lost["against"], lost["steps"]) == (FAIR.run_id, STEPS), "the better one of two"
    assert 0 < lost["step"] < STEPS
    assert f"stopped early at step {lost['step']} of {STEPS}: its loss of" in screen.getvalue()
    check_readers(tmp_path, lost)
    for run in (GOOD, FAIR, ELSEWHERE):
        assert told(tmp_path, run) == told(calm, run), "who finishes is what he was"

    screen = io.StringIO()
    outcome = start(tmp_path, stopping=True, screen=screen)
    assert (outcome.present, outcome.trained, outcome.stopped) == (3, 0, 1)
    assert "1 of 4 runs were stopped early" in screen.getvalue()

    outcome = start(tmp_path, stopping=False)
    assert (outcome.present, outcome.trained, outcome.stopped) == (3, 1, 0)
    assert told(tmp_path, BAD) == told(calm, BAD), "bit for bit"
    directory = epath.Path(tmp_path) / "runs" / BAD.run_id
    assert json.loads((directory / "result.json").read_text())["timing"]["resumed_from_step"] == lost["step"]
    assert not (directory / "stopped.json").exists()
    assert start(tmp_path, stopping=True).present == 4


def check_readers(out, lost):
    """Status, its sums, its page, and the table that laws are fitted to."""
    out = epath.Path(out)
    statuses = read_status(out)
    (status,) = (each for each in statuses if each.run_id == BAD.run_id)
    assert status.state == "stopped early"
    assert lost["words"].removeprefix("stopped early ") in status.detail
    assert counts(statuses)["stopped early"] == 1
    assert device_hours(statuses).left == 0, "nothing is left to do of it"
    histories = read_history(out)
    assert totals(histories).done == 4
    shown = page(histories, "here", "now", None, None)
    assert "1 stopped early" in shown
    assert f"stopped at step {lost['step']}" in shown, "its log has it too"
    table = read_sweep(out, Choices.parse(where=["learning_rate=0.02"])).table
    assert {row.run for row in table.rows} == {GOOD.run_id, ELSEWHERE.run_id}
    (remark,) = (each for each in table.remarks if each.row == BAD.run_id)
    assert remark.what == f"left out: {lost['words']}"


@pytest.mark.ci
def test_two_workers_judge_alike_and_stop_a_run_once(calm, tmp_path):
    start(tmp_path, [GOOD, FAIR], stopping=False)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: start(tmp_path, stopping=True), range(2)))
    assert [outcome.failed for outcome in outcomes] == [[], []]
    assert sum(outcome.trained for outcome in outcomes) == 1, "the one of another format"
    assert [outcome.stopped for outcome in outcomes] == [1, 1], "both know of it"
    out = epath.Path(tmp_path)
    found = read_stopped(out / "runs" / BAD.run_id, BAD.run_id)
    assert found is not None
    for _ in range(2):
        other = Trial(BAD, [BAD, GOOD, FAIR], SWEEP, out)
        assert other.is_due(found["step"])
        again = other.look()
        assert again is not None
        assert {**found, **again._asdict(), "words": again.words} == found, "of the same curves the same is said"
    assert not list(out.glob("runs/*/result.conflict.json"))
    assert told(tmp_path, ELSEWHERE) == told(calm, ELSEWHERE)


def test_trials_differ_in_the_optimizer_alone():
    other_seed, longer, schedule = trial(0.04, 1), tiny.run(tokens=128 * 64), trial(0.02)
    schedule = replace(schedule, optimizer=Optimizer(0.02, decay="linear"))
    algorithm = replace(GOOD, optimizer=Optimizer(0.02, amsgrad=True))
    (group,) = trials([BAD, GOOD, other_seed, longer, schedule, algorithm, ELSEWHERE]).values()
    assert group == [BAD, GOOD, other_seed]
    with pytest.raises(
        UserError, match=r"no two of the 4 runs differ in settings of the optimizer \(learning_rate, .*drop it"
    ):
        trials([GOOD, trial(0.02, 1), ELSEWHERE, schedule])
    decays = [GOOD, replace(GOOD, optimizer=Optimizer(0.02, weight_decay=0.0))]
    assert list(trials(decays).values()) == [decays]


def test_the_middle_of_the_rates_is_trained_first():
    runs = [trial(rate, seed) for rate in (0.01, 0.02, 0.04, 0.08) for seed in range(2)]
    assert [run.optimizer.learning_rate for run in by_promise([*runs, ELSEWHERE])] == [
        *(0.02, 0.02, ELSEWHERE.optimizer.learning_rate),
        *(0.01, 0.01, 0.04, 0.04),
        *(0.08, 0.08),
    ]


def test_a_look_is_taken_once_and_a_store_that_is_away_is_asked_again(tmp_path, monkeypatch):
    judge = Trial(BAD, [BAD, GOOD], SWEEP, epath.Path(tmp_path))
    assert [step for step in range(1, STEPS + 1) if judge.is_due(step)] == [12, 18, 24, 30, 36, 42, 48]

    def away(*_):
        raise Unavailable("it does not answer")

    monkeypatch.setattr(losers, "read_result", away)
    assert judge.look() is None
    monkeypatch.undo()
    assert judge.look() is None, "nothing is published"
    (tmp_path / "runs" / GOOD.run_id).mkdir(parents=True)
    (tmp_path / "runs" / GOOD.run_id / "result.json").write_text("{")
    assert judge.look() is None, "a damaged result is none to be held against"


def test_populations_are_not_judged():
    with pytest.raises(UserError, match="--stop-losers stops single runs, which --mode population trains at once"):
        mode_of("population", 1, judged=True)
    assert mode_of("threads", 1, judged=True) == "threads"
