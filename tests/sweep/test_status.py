"""Status of a sweep, read from its files alone."""

import json
import time
from pathlib import Path

import pytest
from etils import epath

from capscale.artifacts import sealed
from capscale.cli import main
from capscale.errors import UserError
from capscale.sweep.status import RunStatus, counts, device_hours, formats, read_status

ROW = {"model": "nano-8", "weights": "int4", "activations": "dense", "seed": 1, "loss": 2.34567}

SOON = "soon"
"""To be replaced by a moment a while after the test begins; one that is far ahead is not believed."""
LIVE = {"host": "tpu-7", "pid": 12, "place": "elsewhere", "process": "9", "expires_at": SOON}
LINES = '{"step": 10, "device_seconds": 1.5}\n{"step": 20, "device_seconds": 2.5}\n{"step": 3'
ALTERED = "damaged", "result.json was altered after it was written: its content has another sha256; remove it"
PLANNED = {"name": "nano-8 int4 seed 1", "steps": 40, "flops": 1e9}


def result(run_id, row, status="ok"):
    return {"schema": 1, "run_id": run_id, "status": status, "row": row}


def stopped(run_id):
    return sealed({"schema": 1, "run_id": run_id, "words": "stopped early at step 20 of 40: it could not win"})


# Files of a run's directory, and the state and detail that they are read as.
STATES = {
    "a": ({"result.json": result("a", ROW)}, "done", "nano-8 int4/dense seed 1: loss 2.3457"),
    "b": ({"result.json": result("b", {**ROW, "loss": None}, "diverged")}, "diverged", "seed 1: diverged"),
    "c": ({"error.json": {"error": "no luck"}, "metrics.jsonl": ""}, "failed", "no luck"),
    "d": ({"metrics.jsonl": LINES}, "started", "nano-8 int4 seed 1: step 20 of 40"),
    "e": ({}, "to do", ""),
    "f": ({"result.json": "{"}, "damaged", "result.json is not readable JSON"),
    "g": ({"result.json": result("g", ROW) | {"row": 3}}, "damaged", "no object 'row'"),
    "h": ({"result.json": result("h", {**ROW, "loss": "low"})}, "damaged", ""),
    "i": ({"result.json": result("i", None)}, "damaged", ""),
    "j": ({"error.json": {}}, "damaged", "error"),
    "k": ({"lease-2.json": LIVE, "metrics.jsonl": LINES}, "running", "step 20 of 40, process 12 on tpu-7"),
    "l": ({"lease-2.json": LIVE | {"expires_at": 1.0}, "metrics.jsonl": LINES}, "started", "step 20"),
    "m": ({"lease-2.json": LIVE | {"released": True}, "error.json": {"error": "no luck"}}, "failed", "no luck"),
    "n": ({"lease-2.json": LIVE, "error.json": {"error": "no luck"}}, "running", "step 0 of 40"),
    "o": ({"lease-2.json": LIVE, "result.json": result("o", ROW)}, "done", "loss 2.3457"),
    "p": ({"lease-1.json": LIVE, "lease-2.json": "{"}, "to do", ""),
    "q": ({"result.json": sealed(result("q", ROW) | {"schema": 2})}, "done", "loss 2.3457"),
    "r": ({"result.json": sealed(result("r", ROW) | {"schema": 2}) | {"row": {**ROW, "loss": 2.34568}}}, *ALTERED),
    "s": ({"result.json": result("s", ROW) | {"schema": 2}}, *ALTERED),
    "t": ({"result.json": result("a", ROW)}, "damaged", "t/result.json is the result of run 'a', not of t"),
    "u": ({"error.json": {"run_id": "c", "error": "no luck"}}, "damaged", "u/error.json is of run 'c', not of u"),
    "v": ({"error.json": {"run_id": "v", "error": "no luck"}}, "failed", "no luck"),
    "w": ({"stopped.json": stopped("w"), "metrics.jsonl": LINES}, "stopped early", "seed 1: at step 20 of 40"),
    "x": ({"stopped.json": stopped("w")}, "damaged", "x/stopped.json is of run 'w', not of x"),
    "y": ({"stopped.json": stopped("y") | {"words": "no"}}, "damaged", "stopped.json was altered"),
    "z": ({"stopped.json": stopped("z"), "lease-2.json": LIVE}, "running", "step 0 of 40"),
}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": list(STATES), "planned": dict.fromkeys(STATES, PLANNED)}))
    for run_id, (files, _, _) in STATES.items():
        for name, value in files.items():
            path = tmp_path / "runs" / run_id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soon = {"expires_at": time.time() + 1e3} if SOON in json.dumps(value) else {}
            path.write_text(value if isinstance(value, str) else json.dumps(value | soon))
    return epath.Path(tmp_path)


def test_every_state(out):
    statuses = read_status(out)
    assert [status.run_id for status in statuses] == list(STATES)
    for status in statuses:
        _, state, detail = STATES[status.run_id]
        assert status.state == state, status
        assert detail in status.detail
    found = {"done": 3, "diverged": 1, "failed": 3, "running": 3, "started": 2, "to do": 2, "damaged": 11}
    found |= {"stopped early": 1}
    assert counts(statuses) == found
    assert {status.run_id: status.device_s for status in statuses if status.device_s} == {
        "d": 4,
        "k": 4,
        "l": 4,
        "w": 4,
    }


NO_TEXT, DEEP = b"\xff\xfe{\n" + b"[" * 100_000 + b"\n", b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.jsonl", None), ("metrics.jsonl", NO_TEXT), ("error.json", b"\xff"), ("error.json", DEEP)],
)
def test_files_that_are_none_are_no_end_of_the_list(name, content, out):
    """A directory in place of a file, and bytes that are no text."""
    path = out / "runs" / "e" / name
    path.parent.mkdir(parents=True)
    path.mkdir() if content is None else path.write_bytes(content)
    found = {status.run_id: status.state for status in read_status(out)}
    assert found["e"] == ("started" if content == NO_TEXT else "damaged")
    assert found["a"] == "done"


def test_plan_of_a_run_that_is_none(tmp_path):
    (tmp_path / "sweep.json").write_text('{"runs": ["a", "b"], "planned": {"a": 7}}')
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert [status.state for status in read_status(epath.Path(tmp_path))] == ["damaged", "to do"]


def test_device_hours_are_those_of_finished_runs_scaled_by_flops():
    finished = [RunStatus("a", "done", "", 3600.0, 1e12), RunStatus("b", "done", "", 7200.0, 2e12)]
    diverged = RunStatus("c", "diverged", "", 36.0, 1e12)
    under_way = RunStatus("d", "running", "", 1800.0, 5e12)
    slow = RunStatus(
        "e", "started", "", 9000.0, 1e12
    )  # has taken longer than it was thought to: nothing left, not less
    waiting = RunStatus("f", "to do", "", 0.0, 1e12)
    hours = device_hours([*finished, diverged, under_way, slow, waiting])
    assert hours.spent == pytest.approx(3 + 0.01 + 0.5 + 2.5)
    assert hours.left == pytest.approx((5 - 0.5) + 0 + 1)
    assert device_hours([*finished, diverged]).left == 0
    assert device_hours([diverged, waiting]).left is None
    assert device_hours([*finished, waiting._replace(flops=None)]).left is None


FROZEN = {"weights_gmse": 0.363, "weights_realised_error_end": 0.079, "weights_estimator": "clip", "hadamard": 128}
FROZEN |= {"weights_pass_rate_end": 0.09, "weights_pass_rate_gaussian": 0.575}
SOUND = {"weights_gmse": 0.0115, "weights_realised_error_end": 0.0117, "weights_pass_rate_end": 0.99}
SOUND |= {"weights_pass_rate_gaussian": 0.99, "weights_estimator": "trust"}


def swept(directory, **rows):
    """A directory whose finished runs have these lines."""
    (directory / "sweep.json").write_text(json.dumps({"runs": list(rows)}))
    for run_id, (status, row) in rows.items():
        path = directory / "runs" / run_id / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result(run_id, ROW | row, status)))
    return epath.Path(directory)


def test_formats_say_what_their_weights_tell(tmp_path):
    """Runs of one format are averaged; dense ones, diverged ones and those of before the columns say nothing."""
    out = swept(
        tmp_path,
        a=("ok", FROZEN | {"weights": "int1"}),
        b=("ok", FROZEN | {"weights": "int1", "seed": 2, "weights_realised_error_end": 0.081}),
        c=("ok", SOUND),
        d=("ok", {"weights": "dense"}),
        e=("diverged", FROZEN | {"loss": None}),
        f=("ok", {"weights": "int8"}),
    )
    frozen, sound, silent = formats(read_status(out))
    assert (frozen.format, frozen.runs, frozen.realised.error_end) == ("int1 [clip, hadamard 128]", 2, 0.08)
    assert (sound.format, sound.runs, sound.realised.error_is_off) == ("int4 [trust]", 1, False)
    assert (silent.format, silent.realised.words) == ("int8", "")
    assert "an error of 0.08, GMSE is 0.36; the mask passes 9% of their gradients" in frozen.realised.words


@pytest.mark.parametrize("json_too", [False, True])
def test_command_names_what_is_off_alone(json_too, tmp_path, capsys):
    out = swept(tmp_path, a=("ok", FROZEN | {"weights": "int1"}), b=("ok", SOUND), c=("ok", {"weights": "dense"}))
    assert main(["status", str(out), *(["--json"] if json_too else [])]) == 0
    printed = capsys.readouterr().out
    if json_too:
        content = json.loads(printed, parse_constant=pytest.fail)
        assert [(each["format"], bool(each["words"])) for each in content["formats"]] == [
            ("int1 [clip, hadamard 128]", True),
            ("int4 [trust]", False),
        ]
        assert content["runs"][0]["realised"]["pass_rate_end"] == 0.09
        assert set(content["runs"][2]["realised"].values()) == {None}
    else:
        said = [line for line in printed.splitlines() if "GMSE" in line]
        assert len(said) == 1
        assert said[0].startswith("int1 [clip, hadamard 128]: GMSE is not what these weights feel")
        assert said[0].endswith("(1 run)")


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
        ('{"runs": ["a"], "planned": []}', "lists no runs, or not as it should"),
        ('{"runs": ["a", 3]}', "sweep.json: an entry of runs is 3, and not the plain name of a file"),
        ('{"runs": ["a", "../../elsewhere"]}', r"sweep.json: an entry of runs is '../../elsewhere', and not the plain"),
        ('{"runs": ["a"], "sha256": "0"}', "sweep.json was altered after it was written"),
    ],
)
def test_what_is_no_sweep_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_status(epath.Path(tmp_path))
