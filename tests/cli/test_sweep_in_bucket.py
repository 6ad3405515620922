"""`capscale` on `gs://`, against a server of it: a sweep from nothing to its table, and the text that it reads."""

import json
import signal
import time

import numpy as np
import pytest
from etils import epath
from support import tiny
from support.limits import LIMIT_S
from support.proxy import Trouble, behind_proxy
from support.stores import visiting
from test_sweep_command import ALARM, started

from capscale.analysis.report import write_files
from capscale.analysis.rows import read, read_sweep
from capscale.cli import BAD_INPUT, main
from capscale.data.blocks import SUFFIX
from capscale.data.shards import Shards
from capscale.errors import TRY_AGAIN, UserError
from capscale.sweep.on_ray import newest_checkpoint
from capscale.train.lease import current_lease, is_live
from capscale.train.loop import LoopIntervals
from capscale.train.metrics import read_metrics

STEPS = 30
EXPERIMENT = f"""
from support import tiny
from capscale.train.loop import LoopIntervals
LoopIntervals.of = classmethod(lambda cls, run, background=False, **_: LoopIntervals(3, 0.0, background))

def runs(ladder, data):
    return [tiny.run(data=data, seed=seed, tokens={STEPS} * 64) for seed in range(2)]
"""
SAID_BY_TENSORSTORE = "google_auth_provider.cc"
"""It logs that it has a token for tests."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an experiment; what that and commands change in this process is changed back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(LoopIntervals, "of", LoopIntervals.of)  # the experiment changes it
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(EXPERIMENT)
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def sweep(gs, out):
    return ["sweep", "mine.py", "--text", f"{gs.url}/text.txt", "--jobs", "1", "--out", out]


def ended(process):
    """Exit status and output of a process, which must have said nothing else."""
    out, err = process.communicate(timeout=LIMIT_S)
    said = [line for line in ALARM.sub("", err).splitlines() if SAID_BY_TENSORSTORE not in line]
    assert said == []
    return process.returncode, out


def wait_for_steps(process, out, lines):
    """A run that has so many lines of metrics, a whole checkpoint, which is saved behind them, and no result."""
    until = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < until:
        for path in out.glob("runs/*/run.json"):
            written = len(read_metrics(path.parent / "metrics.jsonl"))
            saved = written >= lines and newest_checkpoint(path.parent) > 0
            if saved and not (path.parent / "result.json").exists():
                return path.parent
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"the sweep ended before it could be disturbed: {process.communicate(timeout=LIMIT_S)}")


@pytest.mark.ci
def test_a_sweep_begins_in_an_empty_bucket_and_survives_its_worker(place, gs, capsys):
    gs.put("text.txt", tiny.text())
    out = f"{gs.url}/new"
    with started(place, *sweep(gs, out)) as killed:
        directory = wait_for_steps(killed, epath.Path(out), lines=2)
        lease = current_lease(directory)
        assert is_live(lease)
        assert main(["status", out]) == 0
        assert capsys.readouterr().out.startswith("1 running, 1 to do")
        killed.send_signal(signal.SIGKILL)
        status, _ = ended(killed)
        assert status == -signal.SIGKILL
    assert not is_live(lease), "its holder is dead"

    with started(place, *sweep(gs, out)) as other:  # two at once go on where it was killed
        assert main(sweep(gs, out)) == 0
        status, said = ended(other)
    assert status == 0
    both = said + capsys.readouterr().out
    assert both.count(f"2 of 2 results in {out}") == 2
    found = {path.parent.name: json.loads(path.read_text()) for path in epath.Path(out).glob("runs/*/result.json")}
    assert len(found) == 2
    assert found[directory.name]["timing"]["resumed_from_step"] > 0
    lines = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(3, STEPS + 1, 3))
    (seed,) = (seed for seed in range(2) if found[directory.name]["row"]["seed"] == seed)
    calm = tiny.train_one(tiny.run(seed=seed, tokens=STEPS * 64), place / "calm")
    # Programs of other processes, compiled otherwise; steps that were lost would show in the third digit.
    assert found[directory.name]["row"]["loss"] == pytest.approx(calm["row"]["loss"], rel=1e-6)

    assert main(sweep(gs, out)) == 0
    assert f"2 of 2 results in {out} (0 trained now)" in capsys.readouterr().out
    assert main(["status", out]) == 0
    assert capsys.readouterr().out.startswith("2 done\n")
    table = read_sweep(out).table
    assert sorted(row.loss for row in table.rows) == sorted(result["row"]["loss"] for result in found.values())
    gs.put("other/sweep.txt", b"something else")
    assert main(sweep(gs, f"{gs.url}/other")) == BAD_INPUT
    assert "is not empty and holds no sweep.json; choose an empty or new --out" in capsys.readouterr().err


@pytest.mark.ci
def test_a_sweep_ends_on_a_bad_day(place, gs_server, tmp_path, monkeypatch, capsys):
    """Its requests are refused, reset and late, also those of orbax and TensorStore, and an object is written once a
    second; whoever is turned away for good ends with 75, and the same command goes on."""
    (place / "mine.py").write_text(
        EXPERIMENT.replace("LoopIntervals(3, 0.0", "LoopIntervals(10, 0.0").replace("range(2)", "range(1)")
    )
    trouble = Trouble(latency_s=0.005, per_object_s=1.0, resets=0.01, refusals=0.01, late_s=0.5)
    with behind_proxy(gs_server, trouble) as server, visiting(server, tmp_path, monkeypatch) as gs:
        gs.server.put(gs.name, "text.txt", tiny.text())
        out = f"{gs.url}/new"
        for _ in range(5):
            if (status := main(sweep(gs, out))) == 0:
                break
            assert status == TRY_AGAIN, capsys.readouterr().err
        trouble.resets = trouble.refusals = trouble.late_s = 0.0
        found = [json.loads(path.read_text()) for path in epath.Path(out).glob("runs/*/result.json")]
    assert trouble.seen["429"]
    assert trouble.seen["503"] + trouble.seen["reset before"] + trouble.seen["reset after"] > 0
    (result,) = found
    calm = tiny.train_one(tiny.run(tokens=STEPS * 64), place / "calm")
    assert result["row"]["loss"] == pytest.approx(calm["row"]["loss"], rel=1e-6)


@pytest.mark.ci
def test_shards_are_made_of_texts_in_a_bucket_and_read_from_there(gs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    words = tiny.text().split()
    for number, name in enumerate(["one.txt", "deep/two.txt"]):
        documents = [
            b" ".join(words[first : first + 50]) for first in range(number * 30_000, 30_000 * (number + 1), 50)
        ]
        (tmp_path / "texts" / name).write_bytes(b"\n\n".join(documents))
        gs.put(f"texts/{name}", (tmp_path / "texts" / name).read_bytes())
    gs.put("texts/", b"")  # a folder of a web console
    gs.put("texts/.hidden.txt", b"not asked for")
    for source, out in ((tmp_path / "texts", tmp_path / "shards"), (f"{gs.url}/texts", f"{gs.url}/shards")):
        command = ["data", "prepare", str(source), "--separator", r"\n\n", "--tokenizer", "byte", "--out", str(out)]
        assert main([*command, "--workers", "1", "--validation-share", "0.1"]) == 0
    assert main([*command, "--workers", "1", "--validation-share", "0.1"]) == 0, "it goes on"
    local, remote = Shards(epath.Path(tmp_path / "shards")), Shards(epath.Path(f"{gs.url}/shards"))
    assert remote.manifest == local.manifest
    assert sorted(path.name for path in epath.Path(f"{gs.url}/shards").iterdir()) == sorted(
        [shard.file + end for shard in local.manifest.shards for end in ("", SUFFIX)] + ["manifest.json"]
    )
    remote.check()
    np.testing.assert_array_equal(remote.validation(16)[0], local.validation(16)[0])
    np.testing.assert_array_equal(remote.batches(16, 8, 3, 5, 9), local.batches(16, 8, 3, 5, 9))
    assert not (tmp_path / "cache" / "capscale").exists(), "nothing is copied"
    gs.put(f"shards/{local.manifest.validation.file}", b"altered")
    capsys.readouterr()
    assert main(["data", "show", f"{gs.url}/shards"]) == BAD_INPUT
    assert "has 7 bytes, not" in capsys.readouterr().err


def test_tables_and_reports_may_lie_in_a_bucket(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = "N,D,loss,weights,activations\n1e6,1e8,3.0,dense,dense\n1e6,1e8,3.2,int4,dense\n"
    bucket.put("table.csv", table.encode())
    assert [row.loss for row in read(f"{bucket.url}/table.csv").rows] == [3.0, 3.2]
    with pytest.raises(UserError, match=rf"{bucket.url}/none: no such file or sweep directory"):
        read(f"{bucket.url}/none")
    write_files(f"{bucket.url}/report", {"fit.json": b"{}"})
    assert (epath.Path(bucket.url) / "report" / "fit.json").read_text() == "{}"
    assert list(tmp_path.iterdir()) == [], "not in a folder of this machine that is called gs:"


def test_a_store_without_checkpoints_is_refused_before_anything_is_written(place, s3, capsys):
    s3.put("text.txt", tiny.text())
    text, out = ["--text", f"{s3.url}/text.txt"], ["--out", f"{s3.url}/new"]
    for command in (["run", "mine.py", "--index", "0"], ["launch", "skypilot", "mine.py"]):
        assert main([*command, *text, *out]) == BAD_INPUT
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{s3.url}/new cannot hold checkpoints" in said
    assert [path.name for path in epath.Path(s3.url).iterdir()] == ["text.txt"]
