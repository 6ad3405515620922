"""Paths of object storage, on servers of it: `gs://` and `s3://` where both can do it."""

import json
import logging
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.config import conf
from fsspec.registry import _registry

from capscale.cli import BAD_INPUT, main
from capscale.errors import TRY_AGAIN, Unavailable, UserError
from capscale.files import create, write_json, write_text
from capscale.storage import (
    EXTRAS,
    check_checkpoints,
    children,
    files_below,
    make_directory,
    may_pass,
    missing_extra,
    refusal,
)
from capscale.sweep.on_ray import newest_checkpoint
from capscale.sweep.status import progress
from capscale.train.checkpoint import Checkpoints
from capscale.train.lease import Held, Lease, current_lease
from capscale.train.metrics import Metrics, read_metrics
from capscale.train.unmarked import MARK, METADATA


@pytest.fixture
def directory(bucket):
    """A run's directory in a bucket; nothing is there."""
    return epath.Path(bucket.url) / "out" / "runs" / "x"


def names(path):
    return sorted(child.name for child in children(path))


def write(metrics, step):
    metrics.write(step, {"loss": np.ones(3, np.float32), "grad_norm": np.ones(3, np.float32)}, 2.0)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_where_nothing_is_nothing_is_listed_and_nothing_need_be_made(bucket, directory):
    make_directory(directory)
    assert not directory.exists(), "there are no directories"
    assert children(directory) == []
    assert not any(files_below(directory, pytest.fail))
    bucket.put("out/runs/x/", b"")
    assert children(directory) == [], "a folder of a web console"
    bucket.put("out/runs/x/run.json", b"{}")
    bucket.put("out/runs/x/deep/er", b"!")
    assert names(directory) == ["deep", "run.json"]
    assert sorted(files_below(directory.parent, pytest.fail)) == [directory / "deep" / "er", directory / "run.json"]
    assert not bucket.server.has_bucket("mistyped")
    make_directory(epath.Path(f"{bucket.server.scheme}://mistyped/out"))
    assert not bucket.server.has_bucket("mistyped"), "nor is a bucket made"


def test_a_directory_of_this_machine_that_is_missing_is_missed(tmp_path):
    with pytest.raises(FileNotFoundError):
        children(epath.Path(tmp_path / "none"))
    make_directory(epath.Path(tmp_path / "none" / "deep"))
    assert names(epath.Path(tmp_path)) == ["none"]


def test_metrics_are_one_file_in_the_end(directory):
    path = directory / "metrics.jsonl"
    with Metrics(path, keep_to=0) as metrics:
        for step in (3, 6, 9):
            write(metrics, step)
        metrics.flush()
        assert names(directory) == ["metrics-00001.jsonl"]
        assert progress(read_metrics(directory / "metrics.jsonl")) == (9, 6.0), "and status has its device-seconds"
    with Metrics(path, keep_to=6) as metrics:
        write(metrics, 8)
        metrics.finish()
    assert steps(path) == [3, 6, 8]
    assert names(directory) == ["metrics.jsonl"]


@pytest.mark.parametrize("kept", [False, True], ids=["as-set", "as-by-default"])
def test_a_worker_that_waits_sees_what_others_write(kept, bucket, directory, monkeypatch):
    """Of a listing that is kept it would take over a live lease, as silent, and never see the result."""
    if kept:
        for options in (conf["gs"], conf["gcs"], conf["s3"]):
            monkeypatch.setitem(options, "use_listings_cache", True)
    bucket.put("out/runs/x/lease-1.json", b'{"token": "theirs"}')
    assert names(directory) == ["lease-1.json"]
    bucket.put("out/runs/x/lease-2.json", b'{"token": "another"}')
    bucket.put("out/runs/x/result.json", b"{}")
    lease = current_lease(directory)
    assert lease is not None
    assert lease["generation"] == (1 if kept else 2)
    assert ("result.json" in names(directory)) is not kept


def test_leases_and_new_files_are_written_and_read_back(directory):
    assert [create(directory / "file", {}), create(directory / "file", {"other": 1})] == [True, False]
    (directory / "file").unlink()
    with Lease(directory, settle_s=0.01) as held:
        held.check()
        with pytest.raises(Held, match="is held by process"):
            Lease(directory, settle_s=0.01).__enter__()
    found = current_lease(directory)
    assert found is not None
    assert found["released"]
    assert write_json(directory / "result.json", {"loss": 1}, new=True)
    assert not write_json(directory / "result.json", {"loss": 2}, new=True)
    assert json.loads((directory / "result.json").read_text()) == {"loss": 1}
    assert names(directory) == ["lease-1.json", "result.json"], "nothing else is left there"


def test_a_damaged_checkpoint_is_set_aside_and_an_unfinished_one_is_none(gs):
    directory = epath.Path(gs.url) / "run"
    state = {"w": np.arange(4, dtype=np.float32)}
    with Checkpoints(directory / "checkpoints") as checkpoints:
        for step in (3, 6):
            checkpoints.save(step, state)
        checkpoints.set_aside(6)
        assert checkpoints.steps() == [3]
    assert names(directory / "checkpoints") == ["3", "unreadable-6"]
    assert names(directory / "checkpoints" / "unreadable-6"), "with all that was in it"
    assert newest_checkpoint(directory) == 3


def test_a_checkpoint_that_was_copied_without_its_mark_is_kept(gs):
    directory = epath.Path(gs.url) / "run" / "checkpoints"
    state = {"w": np.arange(4, dtype=np.float32)}
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(3, state)
    whole = {path.relative_to(directory / "3"): path.read_bytes() for path in files_below(directory / "3", print)}
    assert sum(path.name == MARK for path in whole) == 2
    for path, content in whole.items():
        if path.name != MARK:
            gs.put(f"run/checkpoints/6/{path}", content)
            if path.name != METADATA:
                gs.put(f"run/checkpoints/9/{path}", content)
    gs.put(f"run/checkpoints/12/{METADATA}", b'{"init_timestamp_nsecs": 1}')
    gs.put("run/checkpoints/12/default/manifest.ocdbt", b"half")
    assert newest_checkpoint(directory.parent) == 3
    with pytest.warns(UserWarning, match="9 does not say that it is complete; it is set aside"):
        checkpoints = Checkpoints(directory)
    with checkpoints:
        assert checkpoints.steps() == [6, 3]
        found = checkpoints.read(6, state)
        assert found is not None
        assert found["w"].tolist() == [0, 1, 2, 3]
    assert names(directory) == ["3", "6", "unreadable-9"], "and what a killed worker has left is gone"
    assert names(directory / "unreadable-9"), "with all that was in it"


@pytest.mark.parametrize("place", ["s3://b/x", "az://b/x"])
def test_other_stores_hold_no_checkpoints(place):
    with pytest.raises(UserError, match=rf"{place} cannot hold checkpoints: orbax writes them to gs:// and to file"):
        check_checkpoints(epath.Path(place))


def test_a_bucket_that_is_not_there_is_named(bucket):
    place = epath.Path(f"{bucket.server.scheme}://mistyped/x")
    with pytest.raises(
        UserError, match=rf"{place} cannot be written \(no such bucket or object: .+\); free space"
    ) as caught:
        write_text(place, "text")
    assert not isinstance(caught.value, Unavailable), "nobody need wait for it"


def test_a_store_that_does_not_answer_may_answer_later(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Unavailable, match="x cannot be written"):
        write_text(epath.Path(s3.url) / "x", "text")


class Answer(Exception):
    """An error of a client, with the status of the server's answer."""

    def __init__(self, code):
        super().__init__(f"status {code}")
        self.code = code


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        *((Answer(code), code in (408, 429, 500, 503)) for code in (400, 401, 403, 404, 408, 412, 429, 500, 503)),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (FileNotFoundError(), False),
        (FileNotFoundError("http://h/upload/storage/v1/b/bucket/o?uploadType=resumable&name=x&upload_id=1f86"), True),
        (PermissionError(), False),
    ],
)
def test_what_may_pass(error, passes):
    assert may_pass(error) is passes
    behind = OSError("said otherwise")
    behind.__cause__ = error
    assert may_pass(behind) is passes


def test_what_does_not_answer_ends_in_one_line(s3, capsys, monkeypatch):
    """gcsfs would ask six times, for half a minute."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert main(["status", f"{s3.url}/out"]) == TRY_AGAIN
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "object storage cannot be used (Could not connect to the endpoint URL" in said
    assert "check the path, the network and your credentials" in said


def test_only_what_a_store_raises_is_its_refusal(gs, monkeypatch):
    for raised, refused in ((PermissionError("not yours"), True), (TypeError("a mistake in a program"), False)):

        async def refuse(self, path, error=raised, **options):
            raise error

        client = fsspec.filesystem("gs")
        monkeypatch.setattr(type(client), "_info", refuse)
        with pytest.raises(type(raised)) as caught:
            client.exists(f"{gs.url}/x")
        assert (refusal(caught.value) is not None) is refused
    assert refusal(PermissionError("of a local file")) is None


def test_repeated_requests_are_kept_off_the_screen_unless_asked_for(gs, caplog, monkeypatch):
    """gcsfs logs a warning with every request here, as there are no credentials to ask of what kind a bucket is."""
    for name in ("gcsfs", "google.auth", "s3fs"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    place = epath.Path(gs.url) / "out"
    assert not place.exists()
    assert "Could not determine bucket type" in caplog.text
    monkeypatch.setenv("GCSFS_DEBUG", "WARNING")
    main(["status", str(place)])
    caplog.clear()
    assert not place.exists()
    assert caplog.text, "whoever asks for it sees it"
    monkeypatch.delenv("GCSFS_DEBUG")
    main(["status", str(place)])
    caplog.clear()
    assert not place.exists()
    assert not caplog.text


@pytest.mark.parametrize(("place", "package", "extra"), [("gs://b/x", "gcsfs", "gcs"), ("s3://b/x", "s3fs", "s3")])
def test_a_package_that_is_missing_is_named_with_its_extra(place, package, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [*filter({"gs", "gcs", "s3"}.__contains__, _registry)]:
        monkeypatch.delitem(_registry, name)  # where an earlier test has left it
    type(fsspec_backend)._get_filesystem.cache_clear()
    assert main(["status", place]) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert package in said
    assert f"pip install 'capscale[{extra}]'" in said
    assert f'"{extra}": ["{package}>=' in (Path(__file__).parent.parent / "setup.py").read_text()
    assert EXTRAS[package] == extra


def test_other_packages_that_are_missing_are_no_bad_input():
    assert missing_extra(ModuleNotFoundError("No module named 'jax'", name="jax")) is None
