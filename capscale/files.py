"""Files: JSON written whole or not at all, and errors that say what to do."""

import json
import logging
import os
import posixpath
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from etils import epath
from fsspec.config import conf

from capscale.errors import UserError

for _storage in ("gcs", "gs", "s3"):
    # By default a listing is kept until this process writes there: a worker that waits would see no new lease or result
    # of another one, and of a file that has grown only its old length.
    conf.setdefault(_storage, {})["use_listings_cache"] = False

EXTRAS = {"gcsfs": "gcs", "s3fs": "s3"}
"""Packages that open paths of object storage, and the extra that each comes with."""


def is_object_storage(path: epath.PathLike) -> bool:
    """Whether a path is that of an object, such as `gs://bucket/x`: written whole, and never appended to."""
    return "://" in os.fspath(path)


def appends(path: epath.PathLike) -> bool:
    """Whether a file can grow in place. An object cannot: each line that is added writes all of it anew."""
    return not is_object_storage(path)


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
    return f"object storage cannot be used ({_reason(error)}); check the path, the network and your credentials"


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
    """Makes a directory and those above it, if need be.

    Object storage has none; asked for one, its clients look whether there is such a bucket, which takes a right that
    writing into it does not, and s3fs makes the bucket of a name that was mistyped.
    """
    if not is_object_storage(path):
        path.mkdir(parents=True, exist_ok=True)


def children(directory: epath.Path) -> list[epath.Path]:
    """Paths in a directory. Object storage has no empty directories: none where it does not exist."""
    if not is_object_storage(directory):
        return list(directory.iterdir())
    client, here = _client(directory)
    try:
        names = [name.rstrip("/") for name in client.ls(here, detail=False)]
    except FileNotFoundError:
        return []
    # What web consoles make as a folder is an object in it that has its name.
    return [directory / posixpath.basename(name) for name in names if name != here]


def files_below(root: epath.Path, on_error: Callable[[OSError], object]) -> Iterator[epath.Path]:
    """Every file below a directory; `on_error` is told of folders of this machine that cannot be read."""
    if is_object_storage(root):  # epath's `walk` leaves out in which store its folders are, and cannot walk s3://
        client, here = _client(root)
        names = (name for name in client.find(here) if not name.endswith("/") and name != here)
        yield from (root / posixpath.relpath(name, here) for name in names)
    else:
        yield from (folder / name for folder, _, names in root.walk(on_error=on_error) for name in names)


def _client(path: epath.Path) -> tuple[Any, str]:
    """The client of an object's store, and the path as it calls it."""
    store, _, name = os.fspath(path).partition("://")
    return fsspec.filesystem(store), name


def plain_name(value: Any, path: epath.PathLike, field: str, remedy: str = "fetch or make it again") -> str:
    """A name that was read from a file, to be joined to a directory: one component of a path, and no hidden one.

    Whoever wrote the file chose the name. `../../.bashrc`, joined as it is, is a file of the reader's.

    Args:
      value: what was read.
      path: the file it was read from.
      field: what it is called there.
      remedy: what to do about such a file.

    Returns:
      `value`.

    Raises:
      UserError: it is no string, is empty, begins with a dot, or holds a separator of any system, a colon (of drives
        and streams) or a character that cannot be printed.
    """
    if isinstance(value, str) and value.isprintable() and value[:1] not in ("", ".") and not set(value) & set("/\\:"):
        return value
    shown = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:97]}..."
    raise UserError(f"{path}: {field} is {shown}, and not the plain name of a file in its directory; {remedy}")


def refuse_link(path: epath.PathLike) -> None:
    """Raises `UserError` for a symbolic link where files are written, renamed and removed below.

    What lies behind one may belong to something else. A directory that the user names may be one; those in it may not.
    """
    if not is_object_storage(path) and os.path.islink(path):
        raise UserError(
            f"{path} is a link to {os.path.realpath(path)}, and files are renamed and removed there; "
            "put the directory itself in its place, or choose another --out (which may be a link)"
        )


@contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """Turns an `OSError` (no space, read-only, no permission) into a `UserError` that names the path.

    And what clients of object storage raise, see `refusal`.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and refusal(error) is None:
            raise
        raise UserError(
            f"{path} cannot be written ({_reason(error)}); free space, fix permissions or choose another --out"
        ) from error


def unreadable(path: epath.PathLike, error: OSError) -> str:
    """Message for a file that may be whole, and cannot be read."""
    return f"{path} cannot be read ({error.strerror or error}); see to its permissions and the storage"


def is_there(path: Path | epath.Path) -> bool:
    """Whether there is a file or directory; `UserError` where nobody may look."""
    if is_object_storage(path):
        return path.exists()
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(unreadable(path, error)) from error
    return True


def printable(text: str) -> str:
    """Text from a file, for a screen: whatever is not printed, such as what moves a terminal's cursor, as its code."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _reason(error: BaseException) -> str:
    """Text of an error, on one line. Clients of object storage name only the place of a missing file."""
    said = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200]
    if isinstance(error, FileNotFoundError) and not error.strerror:
        return f"no such bucket or object: {said}"
    return said or type(error).__name__


TEMPORARY = ".tmp"
"""How names end of files that a crash may leave half-written; nothing reads them."""


def write_text(path: epath.Path, text: str, *, new: bool = False) -> bool:
    """Writes under a temporary name, then renames: a reader sees the old file or the whole new one.

    An object of a store appears when all of it is there, and is written as it is.

    Args:
      path: the file.
      text: its content.
      new: leave a file that is there as it is; of two writers at once, one wins.

    Returns:
      Whether the file now holds `text`.
    """
    if is_object_storage(path):
        with writing(path):
            if new and path.exists():  # a moment is left in which both of two writers win
                return False
            path.write_text(text)
            return True
    temporary = _temporary(path)
    with writing(path):
        try:
            temporary.write_text(text)
            if not new:
                temporary.replace(path)
                return True
            linked = _link(temporary, path)
            # Without links a moment is left in which both of two writers win.
            return (not path.exists() and bool(temporary.replace(path))) if linked is None else linked
        finally:
            temporary.unlink(missing_ok=True)


def create(path: epath.Path, value: Any) -> bool | None:
    """Creates a JSON file that is not there yet: True for one of all who try, False for the others.

    None where the storage cannot tell (object storage, a file system without links); nothing is written then.
    """
    if is_object_storage(path):
        return None
    temporary = _temporary(path)
    with writing(path):
        try:
            temporary.write_text(_json(value))
            return _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary(path: epath.Path) -> epath.Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}"


def _link(temporary: epath.Path, path: epath.Path) -> bool | None:
    """Gives a file its name unless the name is taken; None where links cannot be made."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        return None
    return True


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: epath.Path, value: Any, *, new: bool = False) -> bool:
    """Writes JSON; see `write_text`."""
    return write_text(path, _json(value), new=new)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; `ValueError` for what is none, or is nested deeper than Python can follow."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_json(path: epath.Path, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`; `UserError` with the remedy when it is not one."""
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:  # of which `remedy`, perhaps to remove it, would be the wrong one
        raise UserError(unreadable(path, error)) from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({str(error)[:120]}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not a JSON object; {remedy}")
    return value
