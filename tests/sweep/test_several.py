"""One process of several that train each run together, and runs that are split over devices."""

import jax
import pytest
from etils import epath
from test_local import RUNS, start

from capscale.errors import UserError
from capscale.files import read_json
from capscale.sweep import local
from capscale.train.distributed import agreed
from capscale.train.lease import Held
from capscale.train.sharding import make_mesh

NOTHING, FAILED = (False, False, False), (True, False, True)
"""Of `missing_runs` and `all_or_none`: of three flags none, and a failure that lasts."""


@pytest.fixture
def one_of_two(monkeypatch):
    """This process believes that it is one of two, and hears of the other one what `others` says."""
    others = []
    for place in ("capscale.sweep.local", "capscale.train.distributed"):
        monkeypatch.setattr(f"{place}.any_process", lambda *flags: others.pop(0) if others else flags)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(local, "make_mesh", lambda *args, **kwargs: make_mesh(devices=jax.devices()[:1]))
    return others


def test_one_process_of_several_that_fails_begins_nothing_else(tmp_path, monkeypatch, one_of_two):
    """The others are in the midst of a step: whatever it asked them now, they would not answer."""
    begun = []

    def train(runs, *args, **kwargs):
        begun.append(runs[0])
        raise RuntimeError("out of memory")

    monkeypatch.setattr(local, "train", train)
    outcome = start(tmp_path)
    assert begun == [RUNS[0]]
    assert (outcome.alone, outcome.failed) == (True, [f"run {RUNS[0].run_id}: RuntimeError: out of memory"])


@pytest.mark.parametrize(
    "told",
    [
        # missing, not stopped, cannot read or write the directory
        [NOTHING, (False,), FAILED],
        # missing, not stopped, can read it, no result there, cannot read the text
        [NOTHING, (False,), NOTHING, (False,), FAILED],
    ],
)
def test_what_no_process_can_begin_is_passed_over(told, tmp_path, monkeypatch, one_of_two):
    monkeypatch.setattr(local, "train", lambda runs, *args, **kwargs: pytest.fail("begun"))
    one_of_two[:] = told
    outcome = start(tmp_path, RUNS[:1])
    assert not outcome.alone
    assert not one_of_two
    assert not list(tmp_path.glob("runs/*/error.json")), "it is for the process that knows why"
    assert outcome.failed == [
        f"run {RUNS[0].run_id}: another process could not do its part, and says why; mend that and start all again"
    ]


def test_what_fails_in_all_alike_does_not_stop_the_others(tmp_path, monkeypatch, one_of_two):
    begun = []

    def train(runs, *args, **kwargs):
        begun.append(runs[0])
        raise agreed(UserError("no checkpoint can be read"))

    monkeypatch.setattr(local, "train", train)
    outcome = start(tmp_path)
    assert begun == list(RUNS)
    assert not outcome.alone
    assert outcome.failed == [f"run {run.run_id}: no checkpoint can be read" for run in RUNS]


def test_whoever_is_left_by_the_others_says_so(tmp_path, monkeypatch, one_of_two):
    """They are asked once more before runs that another worker holds are tried again."""

    def train(*args, **kwargs):
        def ended(*flags):
            raise UserError("the other processes do not answer")

        monkeypatch.setattr(local, "any_process", ended)
        raise Held("by another worker")

    monkeypatch.setattr(local, "train", train)
    outcome = start(tmp_path, RUNS[:1])
    assert (outcome.alone, outcome.failed) == (True, ["the other processes do not answer"])


def test_a_result_that_only_others_see_yet_counts(tmp_path, monkeypatch, one_of_two):
    """Storage may show it later here; counts that differ would end in another exit status."""
    monkeypatch.setattr(local, "train", lambda runs, *args, **kwargs: [])
    one_of_two[:] = [NOTHING, NOTHING, (False,), NOTHING, (True,)]
    outcome = start(tmp_path, RUNS[:2])
    assert not one_of_two
    assert (outcome.present, outcome.trained, outcome.failed) == (1, 1, [])


def test_the_first_to_fail_leaves_its_reason(tmp_path, monkeypatch, one_of_two):
    directory = tmp_path / "runs" / RUNS[0].run_id

    def train(*args, **kwargs):
        directory.mkdir(parents=True)
        (directory / "error.json").write_text('{"error": "disk full"}')
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(local, "train", train)
    assert start(tmp_path, RUNS[:1]).alone
    assert read_json(epath.Path(directory / "error.json"), "") == {"error": "disk full"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fsdp": 2, "mode": "threads"},
            "--fsdp 2 splits a run over devices, which --mode threads does not; use --mode",
        ),
        ({"fsdp": 2, "mode": "population"}, "which --mode population does not; use --mode mesh or --fsdp 1"),
        ({"fsdp": 0}, "--fsdp 0 must be at least 1$"),
    ],
)
def test_fsdp_is_never_passed_over(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        start(tmp_path, **options)


@pytest.mark.parametrize("mode", ["threads", "population"])
def test_modes_of_one_process_are_not_passed_over(mode, tmp_path, one_of_two):
    with pytest.raises(UserError, match=rf"--mode {mode} needs one process, but 2 are connected here: use"):
        start(tmp_path, mode=mode)


def test_fsdp_means_a_mesh(tmp_path, monkeypatch):
    seen = []

    def train(runs, source, directories, executor, **kwargs):
        seen.append((len(runs), executor.devices))
        raise RuntimeError

    monkeypatch.setattr(local, "train", train)
    start(tmp_path, fsdp=2)
    assert seen == [(1, 2)] * 3
