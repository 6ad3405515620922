"""Paths of object storage, on a stand-in: files in memory without appending, and listings kept as gcsfs keeps them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.implementations.memory import MemoryFileSystem

from capscale.cli import BAD_INPUT, main
from capscale.files import EXTRAS, create, missing_extra, write_json
from capscale.sweep.status import progress
from capscale.train.lease import Held, Lease, current_lease
from capscale.train.metrics import Metrics


class Bucket(MemoryFileSystem):
    """What gcsfs does of note; each instance is a process of its own, and all see the same files."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs, cachable = {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("gs://", "memory://"))

    def ls(self, path, detail=True, **kwargs):
        """From the listing cache where it holds it, whoever has written since."""
        path = self._strip_protocol(path)
        if (found := self.dircache.get(path)) is None:
            found = self.dircache[path] = [dict(entry) for entry in super().ls(path, detail=True)]
        return found if detail else [entry["name"] for entry in found]

    def _open(self, path, mode="rb", **kwargs):
        return super()._open(path, mode.replace("a", "w"))


@pytest.fixture
def directory(monkeypatch):
    """A run's directory in a bucket, as this process sees it."""
    here = Bucket()
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    monkeypatch.setattr(type(fsspec_backend), "_get_filesystem", lambda self, name: here)
    path = epath.Path("gs://bucket/out/runs/x")
    path.mkdir(parents=True)
    return path


def write(metrics, step):
    metrics.write(step, {"loss": np.ones(3, np.float32), "grad_norm": np.ones(3, np.float32)}, 2.0)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_metrics_keep_their_lines_where_files_cannot_be_appended_to(directory):
    path = directory / "metrics.jsonl"
    with path.open("w") as file:
        file.write("one\n")
    with path.open("a") as file:
        file.write("two\n")
    assert path.read_text() == "two\n", "the stand-in is as bad as what it stands for"
    metrics = Metrics(path, keep_to=0)
    for step in (3, 6, 9):
        write(metrics, step)
    assert steps(path) == [3, 6, 9]
    assert progress(directory) == (9, 6.0), "and status its device-seconds"
    write(Metrics(path, keep_to=6), 8)
    assert steps(path) == [3, 6, 8]
    assert [found.name for found in directory.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("kept", [False, True], ids=["as-set", "as-by-default"])
def test_a_worker_that_waits_sees_what_others_write(kept, directory, monkeypatch):
    """Of a listing that is kept it would take over a live lease, as silent, and never see the result."""
    here, elsewhere = Bucket(use_listings_cache=True) if kept else Bucket(), Bucket()
    monkeypatch.setattr(type(fsspec_backend), "_get_filesystem", lambda self, name: here)
    elsewhere.pipe(str(directory / "lease-1.json"), b'{"token": "theirs"}')
    assert [path.name for path in directory.iterdir()] == ["lease-1.json"]
    elsewhere.pipe(str(directory / "lease-2.json"), b'{"token": "another"}')
    elsewhere.pipe(str(directory / "result.json"), b"{}")
    lease, names = current_lease(directory), {path.name for path in directory.iterdir()}
    assert lease is not None
    assert lease["generation"] == (1 if kept else 2)
    assert ("result.json" in names) is not kept


def test_leases_and_new_files_are_written_and_read_back(directory):
    assert create(directory / "file", {}) is None, "storage cannot tell who was first"
    with Lease(directory, settle_s=0.01) as held:
        held.check()
        with pytest.raises(Held, match="is held by process"):
            Lease(directory, settle_s=0.01).__enter__()
    found = current_lease(directory)
    assert found is not None
    assert found["released"]
    assert write_json(directory / "result.json", {"loss": 1}, new=True)
    assert not write_json(directory / "result.json", {"loss": 2}, new=True)


@pytest.mark.parametrize(("place", "package", "extra"), [("gs://b/x", "gcsfs", "gcs"), ("s3://b/x", "s3fs", "s3")])
def test_a_package_that_is_missing_is_named_with_its_extra(place, package, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["status", place]) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert package in said
    assert f"pip install 'capscale[{extra}]'" in said
    assert f'"{extra}": ["{package}>=' in (Path(__file__).parent.parent / "setup.py").read_text()
    assert EXTRAS[package] == extra


def test_other_packages_that_are_missing_are_no_bad_input():
    assert missing_extra(ModuleNotFoundError("No module named 'jax'", name="jax")) is None
