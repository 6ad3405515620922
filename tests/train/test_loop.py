"""The loop: what it refuses, what it records, and that no result depends on how often it comes up for air."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from etils import epath
from support import tiny

from capscale.artifacts import check_seal, digest
from capscale.data.corpus import byte_corpus
from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.formats.base import Projection
from capscale.models.ladder import PAPER
from capscale.representation import Operand, Representation
from capscale.train import loop
from capscale.train.checkpoint import Checkpoints
from capscale.train.flops import PEAK, flops_per_token
from capscale.train.lease import LeaseLost, Leases
from capscale.train.loop import LoopIntervals, train
from capscale.train.run import NUMERICS, Optimizer, canonical_json


def lines(directory):
    return [
        json.loads(line, parse_constant=pytest.fail) for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]


@dataclass(frozen=True)
class Halved:
    """A user's format: half of every value."""

    bits = 16.0
    granularity = "row"

    def project(self, x, ctx):
        return Projection(x / 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    return tiny.train_one(tiny.run(), directory), directory


def test_result_and_files(undisturbed):
    result, directory = undisturbed
    assert result["status"] == "ok"
    assert json.loads((directory / "result.json").read_text()) == json.loads(json.dumps(result))
    assert json.loads((directory / "run.json").read_text()) == json.loads(canonical_json(tiny.run()))
    assert [line["step"] for line in lines(directory)] == [3, 6, 9, 12]
    assert result["row"]["D"] == 12 * 64
    assert result["row"]["diverged_at_step"] is None
    assert 0 < result["row"]["loss_se"] < 0.2
    assert 2.5 < result["row"]["loss"] < np.log(96)


def test_golden_loss(undisturbed):
    """Losses of this version of the numerics, but for rounding: with another loss, `NUMERICS` is to be raised."""
    assert NUMERICS == 1
    assert undisturbed[0]["row"]["loss"] == pytest.approx(3.3002, abs=2e-3)


def test_result_and_run_say_whose_they_are(undisturbed):
    result, directory = undisturbed
    assert result["run_id"] == tiny.run().run_id
    check_seal("result.json", json.loads((directory / "result.json").read_text()), "")
    assert digest(json.loads((directory / "run.json").read_text()))[:16] == tiny.run().run_id
    with Checkpoints(directory / "checkpoints", run_id="another") as checkpoints:
        with pytest.raises(UserError, match=rf"checkpoints/12 is of run {tiny.run().run_id}, not of another"):
            checkpoints.check_owner()
        assert checkpoints.steps() == [12, 9]


@pytest.mark.parametrize("linked", ["run", "checkpoints", "9"])
def test_what_lies_behind_a_link_is_not_touched(linked, tmp_path):
    run, elsewhere = tiny.run(), tmp_path / "elsewhere"
    tiny.interrupt([run], [tmp_path / "run"], tiny.one_device(run), at=9)
    place = tmp_path / {"run": "run", "checkpoints": "run/checkpoints", "9": "run/checkpoints/9"}[linked]
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    (elsewhere / "5.orbax-checkpoint-tmp").mkdir()
    (elsewhere / "5").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in elsewhere.rglob("*")}
    with pytest.raises(UserError, match=rf"{place} is a link to {elsewhere}, and files are renamed and removed there"):
        tiny.train_one(run, tmp_path / "run")
    assert {path: path.is_file() and path.read_bytes() for path in elsewhere.rglob("*")} == before


@pytest.mark.ci
def test_a_users_format_is_trained_under_the_hash_of_its_code(tmp_path):
    run = tiny.run(representation=Representation(Operand(Halved(), StraightThrough())))
    result = tiny.train_one(run, tmp_path)
    assert result["run"]["code"].keys() == {"representation.weights.format"}
    assert tiny.train_one(run, tmp_path) == result, "present, and its run.json is that of the run"


@pytest.mark.parametrize(
    "chunk",
    [pytest.param(1, marks=pytest.mark.ci), *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (5, 100))],
)
def test_chunk_length_changes_nothing(chunk, undisturbed, tmp_path):
    result, _ = undisturbed
    again = tiny.train_one(tiny.run(), tmp_path, intervals=LoopIntervals(chunk=chunk))
    assert again["row"] == result["row"]


MEASURED = ("weights_distance", "weights_error", "mask_pass_rate")


class Board:
    """Remembers what it is shown."""

    def __init__(self, run, directory, first):
        self.opened, self.shown, self.closed = (run, directory, first), [], False

    def write(self, step, values):
        self.shown.append((step, values))

    def close(self):
        self.closed = True


def test_metrics_of_short_chunks_are_those_of_long_ones(undisturbed, tmp_path):
    """In the file, by trackers, and as averages of the run in its result."""
    long, directory = undisturbed
    opened, seen = [], []

    def open_board(*arguments):
        opened.append(Board(*arguments))
        return opened[-1]

    options = {"intervals": LoopIntervals(chunk=1, background=True), "trackers": [open_board], "observe": seen.append}
    short = tiny.train_one(tiny.run(), tmp_path, **options)
    singly = lines(tmp_path)
    for line in lines(directory):
        for name in ("loss", *MEASURED):
            found = [each[name] for each in singly[line["step"] - 3 : line["step"]] if each[name] is not None]
            assert line[name] == (pytest.approx(np.mean(found), rel=1e-6) if found else None)
    (board,) = opened
    assert board.opened == (tiny.run(), tmp_path, 0)
    finite = [{name: value for name, value in line.items() if value is not None} for line in singly]
    assert board.shown == [(line.pop("step"), line) for line in finite]
    assert board.closed
    for name in MEASURED:
        assert [line["step"] for line in singly if line[name] is not None] == [1, 9, 12]
        mean = np.mean([singly[0][name], singly[8][name]])
        assert short["metrics"][name] == long["metrics"][name] == pytest.approx(mean, rel=1e-6)
        assert short["metrics"][f"{name}_end"] == long["metrics"][f"{name}_end"] == singly[11][name]
    assert singly[11]["weights_error"] != singly[8]["weights_error"]
    assert 0 < short["metrics"]["mask_pass_rate"] < 1
    assert [progress.step for progress in seen] == list(range(1, 13))
    assert seen[-1].left_s == 0.0 < seen[2].left_s
    assert seen[-1].mfu is None, "the peak of a CPU is not known"


def test_row_says_what_its_weights_tell_of_themselves(undisturbed):
    result, directory = undisturbed
    row, metrics = result["row"], result["metrics"]
    assert row["weights_realised_error"] == metrics["weights_error"]
    assert row["weights_realised_error_end"] == metrics["weights_error_end"] == lines(directory)[-1]["weights_error"]
    assert row["weights_pass_rate"] == metrics["mask_pass_rate"]
    assert row["weights_pass_rate_end"] == metrics["mask_pass_rate_end"]
    assert 0.005 < row["weights_realised_error_end"] < row["weights_gmse"] * 1.3
    assert 0.99 < row["weights_pass_rate_gaussian"] < 0.995


def test_divergence_is_a_result_with_its_step(tmp_path):
    run = tiny.run(optimizer=Optimizer(1e30))
    singly, in_chunks = (
        tiny.train_one(run, tmp_path / str(chunk), intervals=LoopIntervals(chunk=chunk)) for chunk in (1, 5)
    )
    assert singly["row"] == in_chunks["row"]
    assert singly["status"] == "diverged"
    row = singly["row"]
    assert row["loss"] is row["loss_se"] is row["bits_per_byte"] is None
    last = lines(tmp_path / "1")[-1]
    assert last["loss"] is None
    assert 1 < row["diverged_at_step"] == last["step"] < tiny.STEPS
    json.loads((tmp_path / "1" / "result.json").read_text(), parse_constant=pytest.fail)


def test_divergence_seen_only_at_the_end(tmp_path, monkeypatch):
    """A last step that breaks the model has no loss of its own to show it."""
    run = tiny.run()
    executor = tiny.one_device(run)
    monkeypatch.setattr(executor, "evaluate", lambda *_: np.full((1, 400, 4), np.inf, np.float32))
    result = tiny.train_one(run, tmp_path, executor)
    assert result["status"] == "diverged"
    assert result["row"]["diverged_at_step"] is None


def test_another_run_in_the_directory_is_refused(undisturbed):
    _, directory = undisturbed
    with pytest.raises(UserError, match=r"run.json describes another run than"):
        tiny.train_one(tiny.run(seed=9), directory)


def test_damaged_run_json_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"type": "Run", ')
    with pytest.raises(UserError, match=r"run.json is not readable JSON .*; remove it"):
        tiny.train_one(tiny.run(), tmp_path)


def test_another_text_is_refused(tmp_path):
    other = byte_corpus(tiny.text() + b"!", "tiny")
    run = tiny.run()
    with pytest.raises(UserError, match=r"trains on 'tiny' \(sha256 .*not on 'tiny' \(sha256 .*give the text"):
        train([run], other, [epath.Path(tmp_path)], tiny.one_device(run))
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_another_process_sees_ends_all(tmp_path, monkeypatch):
    """Shared storage may show it later here; this process must not begin steps that the others leave to it."""
    monkeypatch.setattr("capscale.train.loop.any_process", lambda *flags: (True,) * len(flags))
    run = tiny.run()
    assert train([run], tiny.corpus(), [epath.Path(tmp_path)], tiny.one_device(run), intervals=tiny.SHORT) == []
    assert not (tmp_path / "checkpoints").exists()


def test_a_lease_that_is_lost_in_the_evaluation_is_noticed_before_the_result(tmp_path, monkeypatch):
    """After the last step nothing else is asked: the worker that took over may still be at its steps."""
    lost = []

    def evaluate(executor, runs, window_NU, state):
        lost.append(True)
        return np.ones((1, len(window_NU)))

    def check(self):
        if lost:
            raise LeaseLost("taken over")

    monkeypatch.setattr(loop, "_validation_losses", evaluate)
    monkeypatch.setattr(Leases, "check", check)
    with pytest.raises(LeaseLost):
        tiny.train_one(tiny.run(), tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be written \(Not a directory\)"):
        tiny.train_one(tiny.run(), tmp_path / "file" / "run")


def test_default_cadence_is_seconds_of_work():
    nano = LoopIntervals.of(tiny.run())
    paper = LoopIntervals.of(
        replace(tiny.run(), model=replace(tiny.MODEL, width=2048, layers=16), batch=512, tokens=10**6)
    )
    assert (nano.chunk, paper.chunk) == (500, 1)


def test_devices_of_known_speed_are_given_half_a_second_of_work():
    """30M in batches of 512 sequences, at half the peak of 16 chips of v5e."""
    run = tiny.run(model=PAPER.model("30M", 32_000), batch=512, tokens=10**8)
    peak = 16 * PEAK["TPU v5e"]
    chunk = LoopIntervals.of(run, peak=peak).chunk
    seconds = chunk * run.tokens_per_step * flops_per_token(run.model) / (peak / 2)
    assert seconds == pytest.approx(0.5, rel=0.2)
    assert LoopIntervals.of(tiny.run(), peak=peak).chunk == 500
