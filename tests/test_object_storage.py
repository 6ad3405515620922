"""Paths of object storage, on a stand-in: files in memory without appending, and listings kept as gcsfs keeps them."""

import sys
from pathlib import Path

import pytest
from etils import epath
from etils.epath.backend import fsspec_backend
from fsspec.implementations.memory import MemoryFileSystem

from capscale.cli import BAD_INPUT, main
from capscale.files import EXTRAS, create, missing_extra, write_json
from capscale.train.lease import Held, Lease, current_lease


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
