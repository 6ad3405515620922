"""What has been done of a sweep, read from its files alone."""

import json
from pathlib import Path

import pytest
from etils import epath

from capscale.errors import UserError
from capscale.sweep.status import counts, read_status

ROW = {"model": "nano-8", "weights": "int4", "activations": "dense", "seed": 1, "loss": 2.34567}

# Files of a run's directory, and the state and detail that they are read as.
STATES = {
    "a": ({"result.json": {"status": "ok", "row": ROW}}, "done", "nano-8 int4/dense seed 1: loss 2.3457"),
    "b": ({"result.json": {"status": "diverged", "row": {**ROW, "loss": None}}}, "diverged", "seed 1: diverged"),
    "c": ({"error.json": {"error": "no luck"}, "metrics.jsonl": ""}, "failed", "no luck"),
    "d": ({"metrics.jsonl": ""}, "started", ""),
    "e": ({}, "to do", ""),
    "f": ({"result.json": "{"}, "damaged", "result.json is not readable JSON"),
    "g": ({"result.json": {"status": "ok"}}, "damaged", "row"),
    "h": ({"result.json": {"status": "ok", "row": {**ROW, "loss": "low"}}}, "damaged", ""),
    "i": ({"result.json": {"status": "ok", "row": None}}, "damaged", ""),
    "j": ({"error.json": {}}, "damaged", "error"),
}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": list(STATES)}))
    for run_id, (files, _, _) in STATES.items():
        for name, value in files.items():
            path = tmp_path / "runs" / run_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value if isinstance(value, str) else json.dumps(value))
    return epath.Path(tmp_path)


def test_every_state(out):
    statuses = read_status(out)
    assert [status.run_id for status in statuses] == list(STATES)
    for status in statuses:
        _, state, detail = STATES[status.run_id]
        assert status.state == state, status
        assert detail in status.detail
    assert counts(statuses) == {"done": 1, "diverged": 1, "failed": 1, "started": 1, "to do": 1, "damaged": 5}


def test_reading_changes_nothing(out):
    before = sorted(Path(out).rglob("*"))
    read_status(out)
    assert sorted(Path(out).rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no sweep.json; give the --out directory of a sweep"),
        ("{", "is not readable JSON"),
        ("{}", "lists no runs"),
        ('{"runs": 3}', "lists no runs"),
    ],
)
def test_what_is_no_sweep_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_status(epath.Path(tmp_path))
