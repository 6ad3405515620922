"""Storage that files lie on, by path: which store it is, what it refuses, listings and ranges."""

import logging
import os
import posixpath
import traceback
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from capscale.errors import Unavailable, UserError
from capscale.store import client_of, store_of

EXTRAS = {"gcsfs": "gcs", "s3fs": "s3"}
"""Packages that open paths of object storage, and the extra that each comes with."""


def is_object_storage(path: epath.PathLike) -> bool:
    """Whether a path is that of an object, such as `gs://bucket/x`: written whole, and never appended to."""
    return "://" in os.fspath(path)


def appends(path: epath.PathLike) -> bool:
    """Whether a file can grow in place. An object cannot: each line that is added writes all of it anew."""
    return store_of(path).appends


def missing_extra(error: ImportError) -> str | None:
    """Extra to install for a path of object storage that could not be opened; None for other packages."""
    name = getattr(error.__cause__, "name", None)
    return f"{error}: pip install 'capscale[{EXTRAS[name]}]'" if name in EXTRAS else None


def refusal(error: BaseException) -> str | None:
    """Remedy for an error that object storage, or the way there, has raised; None for others.

    Its clients have types of their own for a server that does not answer, a login that is missing and a right that is
    not given. What they have in common is fsspec, through which all of them are called.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    if isinstance(error, _OURS) or not any(
        frame.f_globals.get("__name__", "").partition(".")[0] == "fsspec" for frame in frames
    ):
        return None
    return f"object storage cannot be used ({reason(error)}); check the path, the network and your credentials"


def may_pass(error: BaseException) -> bool:
    """Whether what a store, or the way there, has raised may be gone when it is asked again.

    So are connections that fail or take too long, answers of HTTP 408, 429 and 500 and above, and a resumable upload
    that the server no longer knows, as when its last answer was lost: it is begun anew
    (https://cloud.google.com/storage/docs/performing-resumable-uploads). A right that is not given, a login and a
    bucket that is not there take somebody to mend them.
    """
    links = [error, error.__cause__, error.__context__]
    return any(_passes(link) for link in links if link is not None)


def is_passing(error: BaseException) -> bool:
    """Whether an error may be gone when its cause is tried again: what says so itself, or what a store has raised."""
    return isinstance(error, Unavailable) or (refusal(error) is not None and may_pass(error))


def _passes(error: BaseException) -> bool:
    answer = getattr(error, "response", None)
    answer = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    status = getattr(error, "code", None) or getattr(error, "status", None) or answer
    if _UPLOAD in str(error) and (isinstance(error, FileNotFoundError) or status in (404, 410)):
        return True
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(kinds & _CONNECTION)


_CONNECTION = {"ClientConnectionError", "HTTPClientError", "EndpointConnectionError", "TransportError"}
"""Errors of aiohttp, botocore and google.auth for a server that does not answer; named, as none need be installed."""
_UPLOAD = "upload_id="
"""In the address of a resumable upload, which is all that gcsfs says of one that is not found."""
_OURS = (TypeError, AttributeError, NameError, AssertionError)
"""Mistakes in a program, which no credentials mend."""


def quiet_clients() -> None:
    """Keeps off the screen what clients of object storage log: of each request that they repeat, a traceback.

    What they raise is reported by us. GCSFS_DEBUG and S3FS_LOGGING_LEVEL, which are theirs, show it all the same.
    """
    for name, asked in (("gcsfs", "GCSFS_DEBUG"), ("google.auth", "GCSFS_DEBUG"), ("s3fs", "S3FS_LOGGING_LEVEL")):
        if asked not in os.environ:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def check_checkpoints(directory: epath.PathLike) -> None:
    """Raises `UserError` for a store that checkpoints cannot be kept in: orbax knows gs:// alone."""
    if is_object_storage(directory) and not os.fspath(directory).startswith("gs://"):
        raise UserError(
            f"{os.fspath(directory)} cannot hold checkpoints: orbax writes them to gs:// and to file systems; "
            "choose another --out, or mount the storage"
        )


def make_directory(path: epath.Path) -> None:
    """Makes a directory and those above it, where the store has directories."""
    store_of(path).make_directory(path)


def children(directory: epath.Path) -> list[epath.Path]:
    """Paths in a directory. Object storage has no empty directories: none where it does not exist."""
    return store_of(directory).children(directory)


def files_below(root: epath.Path, on_error: Callable[[OSError], object]) -> Iterator[epath.Path]:
    """Every file below a directory; `on_error` is told of folders of this machine that cannot be read."""
    return store_of(root).files_below(root, on_error)


def sizes(directory: epath.Path) -> dict[str, int]:
    """Bytes of each object that lies in a directory of object storage, by its name: one request for all."""
    client, here = client_of(directory)
    try:
        found = client.ls(here, detail=True)
    except FileNotFoundError:
        return {}
    return {posixpath.basename(entry["name"]): entry["size"] for entry in found if entry["type"] == "file"}


def read_ranges(ranges: Sequence[tuple[epath.Path, int, int]]) -> list[bytes]:
    """Bytes of objects, each from a first to before a last one; they are asked for side by side.

    Raises what the store's client does, such as `FileNotFoundError`.
    """
    if not ranges:
        return []
    client, _ = client_of(ranges[0][0])
    names, firsts, lasts = zip(*((client_of(path)[1], first, last) for path, first, last in ranges), strict=True)
    return client.cat_ranges(list(names), list(firsts), list(lasts), on_error="raise")


def reason(error: BaseException) -> str:
    """Text of an error, on one line. Clients of object storage name only the place of a missing file."""
    said = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return f"no such bucket or object: {said}"
    return said or type(error).__name__
