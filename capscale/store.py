"""Stores that runs and results lie in: what a file system and an object store each do in their own way.

One suite holds them to it, and servers of both kinds: `tests/test_store.py`.
"""

import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import fsspec
from etils import epath
from fsspec.config import conf

for _storage in ("gcs", "gs", "s3"):
    # By default a listing is kept until this process writes there: a worker that waits would see no new lease or result
    # of another one, and of a file that has grown only its old length.
    conf.setdefault(_storage, {})["use_listings_cache"] = False

TEMPORARY = ".tmp"
"""How names end of files that a crash may leave half-written; nothing reads them."""


class Store(Protocol):
    """Files by path. Each is there whole or not at all, whoever looks, and whenever a process is killed."""

    appends: bool
    """Whether a file can grow in place."""

    def read(self, path: epath.Path) -> bytes:
        """Content of a file; `FileNotFoundError` where there is none."""
        ...

    def write(self, path: epath.Path, content: bytes, *, durable: bool = True) -> None:
        """Puts a file in place of whatever bears its name.

        `durable`: whether it is to be there after a loss of power, once this returns.
        """
        ...

    def create(self, path: epath.Path, content: bytes, *, durable: bool = True) -> bool | None:
        """Makes a file unless one is there: of all who try, one hears True.

        None, and nothing is written, where the store cannot say who was first.
        """
        ...

    def remove(self, path: epath.Path) -> None:
        """Removes a file, if there is one."""
        ...

    def children(self, directory: epath.Path) -> list[epath.Path]:
        """Paths in a directory."""
        ...

    def files_below(self, root: epath.Path, on_error: Callable[[OSError], object]) -> Iterator[epath.Path]:
        """Every file below a directory; `on_error` is told of folders that cannot be read."""
        ...

    def make_directory(self, path: epath.Path) -> None:
        """Makes a directory and those above it, if need be."""
        ...


class FileSystem:
    """Files of this machine, of a network, or of a bucket that is mounted as one.

    A file is written under a temporary name, and renamed. What a rename is on a mounted bucket, a copy and a removal,
    leaves the same two states: an object appears when all of it is there.
    """

    appends = True

    def read(self, path: epath.Path) -> bytes:
        """Of `Store`, for files that are there."""
        return path.read_bytes()

    def write(self, path: epath.Path, content: bytes, *, durable: bool = True) -> None:
        """Of `Store`, by a rename."""
        with _temporary(path, content, durable) as temporary:
            temporary.replace(path)
        if durable:
            _sync_directory(path.parent)

    def create(self, path: epath.Path, content: bytes, *, durable: bool = True) -> bool | None:
        """Of `Store`, by a hard link, which fails where the name is taken; None where there are no links."""
        with _temporary(path, content, durable) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:
                return None
        if durable:
            _sync_directory(path.parent)
        return True

    def remove(self, path: epath.Path) -> None:
        """Of `Store`, for what may be gone already."""
        path.unlink(missing_ok=True)

    def children(self, directory: epath.Path) -> list[epath.Path]:
        """Of `Store`; `FileNotFoundError` where it does not exist."""
        return list(directory.iterdir())

    def files_below(self, root: epath.Path, on_error: Callable[[OSError], object]) -> Iterator[epath.Path]:
        """Of `Store`, folder by folder."""
        return (folder / name for folder, _, names in root.walk(on_error=on_error) for name in names)

    def make_directory(self, path: epath.Path) -> None:
        """Of `Store`, for all that are missing."""
        path.mkdir(parents=True, exist_ok=True)


class ObjectStore:
    """Objects of `gs://`, `s3://` and others that fsspec has a client for.

    There are no directories, no renames and no appending; an object appears when all of it is there. It is created by
    a conditional request (`ifGenerationMatch=0`, `If-None-Match: *`), of which a store grants one. Requests that a
    store refuses for the moment are repeated by its client.
    """

    appends = False

    def read(self, path: epath.Path) -> bytes:
        """Of `Store`, by one request."""
        client, name = client_of(path)
        return client.cat_file(name)

    def write(self, path: epath.Path, content: bytes, *, durable: bool = True) -> None:
        """Of `Store`, as it is; a store keeps what it has said that it has."""
        client, name = client_of(path)
        client.pipe_file(name, content)

    def create(self, path: epath.Path, content: bytes, *, durable: bool = True) -> bool | None:
        """Of `Store`; None where the client of a store has no such request."""
        client, name = client_of(path)
        try:
            client.pipe_file(name, content, mode="create")
        except FileExistsError:
            # Perhaps by this very request: its answer was lost, and the client has asked again.
            with suppress(FileNotFoundError):
                return self.read(path) == content
            return False
        except NotImplementedError:
            return None
        return True

    def remove(self, path: epath.Path) -> None:
        """Of `Store`, for what may be gone already, perhaps by a request that was repeated."""
        client, name = client_of(path)
        with suppress(FileNotFoundError):
            client.rm_file(name)

    def children(self, directory: epath.Path) -> list[epath.Path]:
        """Of `Store`; none where it does not exist, as there are no empty directories."""
        client, here = client_of(directory)
        try:
            names = [name.rstrip("/") for name in client.ls(here, detail=False)]
        except FileNotFoundError:
            return []
        # What web consoles make as a folder is an object in it that has its name.
        return [directory / posixpath.basename(name) for name in names if name != here]

    def files_below(self, root: epath.Path, on_error: Callable[[OSError], object]) -> Iterator[epath.Path]:
        """Of `Store`, from one listing. epath's `walk` leaves out the store of its folders, and cannot walk s3://."""
        client, here = client_of(root)
        names = (name for name in client.find(here) if not name.endswith("/") and name != here)
        return (root / posixpath.relpath(name, here) for name in names)

    def make_directory(self, path: epath.Path) -> None:
        """Makes nothing, as there are no directories.

        Asked for one, clients look whether there is such a bucket, which takes a right that writing into it does not,
        and s3fs makes the bucket of a name that was mistyped.
        """


FILE_SYSTEM, OBJECT_STORE = FileSystem(), ObjectStore()


def store_of(path: epath.PathLike) -> Store:
    """The store that a path is in."""
    return OBJECT_STORE if "://" in os.fspath(path) else FILE_SYSTEM


def client_of(path: epath.PathLike) -> tuple[Any, str]:
    """The client of an object's store, and the path as it calls it."""
    store, _, name = os.fspath(path).partition("://")
    return fsspec.filesystem(store), name


@contextmanager
def _temporary(path: epath.Path, content: bytes, durable: bool) -> Iterator[epath.Path]:
    """A file beside a path, gone in the end; if durable, its content is on the disk before it gets another name."""
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}"
    try:
        temporary.write_bytes(content)
        if durable:
            _sync(temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: epath.Path) -> None:
    """Writes the names in a directory to the disk, where a file system has such a thing."""
    with suppress(OSError):
        _sync(directory)


def _sync(path: epath.Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
