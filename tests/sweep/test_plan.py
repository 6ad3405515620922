"""A sweep is planned from an experiment, and its directory holds that sweep alone."""

import json
import threading
from dataclasses import replace

import pytest
from etils import epath
from support import tiny
from support.limits import LIMIT_S

from capscale.errors import UserError
from capscale.models.ladder import NANO
from capscale.sweep.directory import open_directory
from capscale.sweep.plan import Sweep, known_experiments, plan

VERSIONS = {"capscale": "0"}


def planned(*runs, **changes):
    return replace(Sweep("mine", NANO, tiny.corpus().id, runs or (tiny.run(),)), **changes)


def open_(sweep, directory):
    open_directory(sweep, epath.Path(directory), "capscale sweep mine", VERSIONS)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def experiment(tmp_path):
    def write(code):
        path = tmp_path / "mine.py"
        path.write_text(code)
        return str(path)

    return write


def test_experiment_by_name():
    assert "capacity_demo" in known_experiments()
    sweep = plan("capacity_demo", "nano", tiny.corpus().id)
    assert sweep.experiment == "capacity_demo"
    assert {run.data for run in sweep.runs} == {tiny.corpus().id}
    assert len({run.run_id for run in sweep.runs}) == len(sweep.runs)


def test_experiment_from_a_file(experiment):
    path = experiment(
        "from support import tiny\ndef runs(ladder, data):\n    return [tiny.run(seed=seed) for seed in range(3)]\n"
    )
    sweep = plan(path, "nano", tiny.corpus().id)
    assert (sweep.experiment, sweep.runs) == ("mine", tuple(tiny.run(seed=seed) for seed in range(3)))
    assert sweep.directory_of(sweep.runs[0], epath.Path("/out")) == epath.Path(f"/out/runs/{tiny.run().run_id}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("capacity_dmo", r"'capacity_dmo' is unknown; did you mean capacity_demo"),
        ("zzzzzz", r"did you mean .*capacity_demo, .*Give one of these names or the path of a .py file"),
        ("missing.py", r"experiment file 'missing.py' does not exist"),
    ],
)
def test_unknown_experiments_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        plan(name, "nano", tiny.corpus().id)


def test_unknown_ladder_is_refused():
    with pytest.raises(UserError, match="known ladders: nano, micro, paper"):
        plan("capacity_demo", "pico", tiny.corpus().id)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "defines no function runs"),
        ("runs = 3", "defines no function runs"),
        ("def runs(ladder, data): return []", "has no runs on the nano ladder"),
        ("def runs(ladder, data): return None", "returned None, not a list of Run"),
        ("def runs(ladder, data): return ['run']", "returned a list with 'run', not a list of Run"),
        ("from support import tiny\ndef runs(ladder, data): return [tiny.run(), tiny.run()]", "lists one run twice"),
        ("def runs(:", r"mine.py' cannot be read: SyntaxError: .*mine.py, line 1\); mend the file"),
        ("import nothere", r"ModuleNotFoundError: No module named 'nothere' \(.*mine.py, line 1\)"),
        (
            "\n\ndef runs(ladder, data): return ladder.nope",
            r"'Ladder' object has no attribute 'nope' \(.*mine.py, line 3\)",
        ),
        (
            "import dataclasses\nfrom support import tiny\n"
            "def runs(ladder, data):\n    return [dataclasses.replace(tiny.run(), no=1)]",
            r"unexpected keyword argument 'no' \(.*mine.py, line 4\); mend the file",
        ),
        ("def runs(ladder): return []", r"takes 1 positional argument but 2 were given \(.*mine.py\); mend the file"),
    ],
)
def test_experiments_that_give_no_runs_are_refused(code, message, experiment):
    with pytest.raises(UserError, match=message):
        plan(experiment(code), "nano", tiny.corpus().id)


def test_a_shipped_experiment_is_not_blamed_for_what_is_not_its_own(monkeypatch):
    def runs(ladder, data):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("capscale.experiments.capacity_demo.runs", runs)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        plan("capacity_demo", "nano", tiny.corpus().id)


def test_directory_is_opened_once_and_again(tmp_path):
    out = tmp_path / "new" / "sweep"
    open_(planned(), out)
    before = content(out)
    open_(planned(), out)
    assert content(out) == before
    written = json.loads(before["sweep.json"])
    assert written["runs"] == [tiny.run().run_id]
    assert written["command"] == "capscale sweep mine"
    assert written["versions"] == VERSIONS


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"runs": (tiny.run(seed=1),)},
            "of this sweep's 1 runs it lists 0, and 1 in all, as after an edit of the experiment that took runs away",
        ),
        ({"experiment": "yours"}, "its experiment is 'mine', this sweep's is 'yours'"),
        ({"data": replace(tiny.corpus().id, sha256="0" * 64)}, "its data is"),
        ({"ladder": replace(NANO, name="micro")}, "its ladder is 'nano', this sweep's is 'micro'"),
    ],
    ids=["runs", "experiment", "text", "ladder"],
)
def test_directory_of_another_sweep_is_refused_and_left_alone(other, message, tmp_path):
    open_(planned(), tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError, match=rf"holds another sweep: {message}.*; choose another --out"):
        open_(planned(**other), tmp_path)
    assert content(tmp_path) == before


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"is not empty and holds no sweep.json; choose an empty or new --out"):
        open_(planned(), tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("damaged", ["", '{"schema": 1, ', "[]", "\0\0"])
def test_damaged_sweep_json_is_named(damaged, tmp_path):
    (tmp_path / "sweep.json").write_text(damaged)
    with pytest.raises(UserError, match=r"sweep.json (is not readable JSON|holds list).*; move it away, or choose"):
        open_(planned(), tmp_path)


def test_altered_sweep_json_is_named_and_one_of_an_earlier_version_is_not(tmp_path):
    open_(planned(), tmp_path)
    path = tmp_path / "sweep.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"planned": {}}))
    with pytest.raises(UserError, match=r"sweep.json was altered after it was written: .*; move it away, or choose"):
        open_(planned(), tmp_path)
    path.write_text(json.dumps({field: value for field, value in whole.items() if field != "sha256"}))
    open_(planned(), tmp_path)


def test_runs_behind_a_link_are_refused_but_the_directory_itself_may_be_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    open_(planned(), tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "real" / "runs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"out/runs is a link to {tmp_path}/elsewhere, and files are renamed"):
        open_(planned(), tmp_path / "out")


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"cannot be written \((Not a directory|File exists)\); .*another --out"):
            open_(planned(), out)


def test_start_after_a_kill_while_opening(tmp_path):
    """It leaves a temporary file of ours, not somebody's directory."""
    (tmp_path / ".sweep.json.0123.tmp").write_text('{"sche')
    open_(planned(), tmp_path)
    assert (tmp_path / "sweep.json").exists()


def test_many_launchers_open_one_directory(tmp_path):
    barrier, errors = threading.Barrier(8, timeout=LIMIT_S), []

    def launcher():
        barrier.wait()
        try:
            open_(planned(), tmp_path / "sweep")
        except Exception as error:
            errors.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=launcher) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        (tmp_path / "sweep" / "sweep.json").unlink()
