"""Which runs of a sweep are missing, and which of them a task trains: read from its directory, without the text."""

import json

import pytest
from etils import epath
from support import tiny

from capscale.cli import main
from capscale.errors import Unavailable, UserError
from capscale.sweep import missing
from capscale.sweep.missing import missing_indices, planned_in, tasks
from capscale.sweep.plan import find_experiment
from capscale.sweep.selection import WHOLE, Selection
from capscale.train.run import Optimizer

EXPERIMENT = """
from support import tiny

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed) for seed in range(4)]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    (tmp_path / "text.txt").write_bytes(tiny.text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(capsys, *options):
    status = main(["missing", "mine.py", "--out", "out", *options])
    out, err = capsys.readouterr()
    return status, out, err


def begin(capsys, *trained):
    """A sweep of which these runs are trained, by their place in its list."""
    assert main(["run", "mine.py", "--text", "text.txt", "--out", "out", "--index", *map(str, trained)]) == 0
    capsys.readouterr()


def test_all_are_missing_before_the_sweep_has_begun(place, capsys):
    assert asked(capsys) == (0, "0\n1\n2\n3\n", "")
    assert asked(capsys, "--seeds", "7", "8")[1] == "0\n1\n"
    assert not (place / "out").exists()


@pytest.mark.ci
def test_what_has_a_result_is_not_missing(place, capsys):
    begin(capsys, 1, 3)
    (place / "text.txt").unlink()
    assert asked(capsys) == (0, "0\n2\n", "")
    assert asked(capsys, "--runs-per-task", "2") == (0, "0 1\n2 3\n", ""), "tasks stay what they are"
    assert asked(capsys, "--seeds", "3", "1") == (0, "", ""), "runs of another selection, in its order"
    assert asked(capsys, "--seeds", "0", "1")[1] == "0\n"
    (result,) = [
        path for path in place.glob("out/runs/*/result.json") if json.loads(path.read_text())["row"]["seed"] == 3
    ]
    result.write_text(result.read_text().replace('"seed": 3', '"seed": 4'))
    assert asked(capsys) == (0, "0\n2\n3\n", ""), "a damaged one is for its worker to tell of"
    (place / "mine.py").write_text(EXPERIMENT.replace("range(4)", "range(5)"))
    assert asked(capsys) == (0, "0\n2\n3\n4\n", ""), "an experiment that has grown"
    (place / "mine.py").write_text(EXPERIMENT.replace("range(4)", "range(3)"))
    status, out, err = asked(capsys)
    assert (status, out) == (2, "")
    assert "out holds another sweep: of this sweep's 3 runs it lists 3, and 4 in all" in err
    listing = json.loads((place / "out" / "sweep.json").read_text())
    (place / "out" / "sweep.json").write_text(json.dumps(listing | {"data": "nothing"}))
    assert asked(capsys)[0] == 2


def test_a_store_that_does_not_answer_is_no_missing_result(place, monkeypatch):
    experiment, out = find_experiment("mine.py", "nano"), epath.Path(place)

    def away(directory, run):
        raise Unavailable("the store does not answer")

    monkeypatch.setattr(missing, "planned_in", lambda *_: experiment.plan(tiny.corpus().id))
    monkeypatch.setattr(missing, "read_result", away)
    with pytest.raises(Unavailable):
        missing_indices(experiment, out, WHOLE)


def test_nothing_is_planned_where_no_sweep_has_begun(place):
    assert planned_in(find_experiment("mine.py", "nano"), epath.Path(place) / "out", Selection((0,))) is None


def test_tasks_hold_runs_of_one_size_and_programs_together():
    """Two sizes and two programs, mixed: a partition, in which no task has both sizes."""
    runs = [
        tiny.run(),
        tiny.run(size="large"),
        tiny.dense_run(),
        tiny.run(seed=1),
        tiny.run(size="large", seed=1),
        tiny.run(optimizer=Optimizer(0.01)),
        tiny.dense_run(seed=1),
    ]
    assert tasks(runs, 1) == [[0], [1], [2], [3], [4], [5], [6]]
    assert tasks(runs, 2) == [[0, 3], [1, 4], [5, 2], [6]]
    assert tasks(runs, 3) == [[0, 3, 5], [1, 4], [2, 6]]
    assert tasks(runs, 9) == [[0, 3, 5, 2, 6], [1, 4]]
    with pytest.raises(UserError, match="--runs-per-task 0 must be at least 1"):
        tasks(runs, 0)
