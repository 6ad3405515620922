"""Files: JSON written whole or not at all, and errors that say what to do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from capscale.errors import Unavailable, UserError
from capscale.storage import is_object_storage, may_pass, reason, refusal
from capscale.store import store_of


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
        kind = Unavailable if is_object_storage(path) and may_pass(error) else UserError
        raise kind(
            f"{path} cannot be written ({reason(error)}); free space, fix permissions or choose another --out"
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


def write_text(path: epath.Path, text: str, *, new: bool = False, durable: bool = True) -> bool:
    """Writes a file whole: a reader sees the old one or the new one, and so does who comes after a loss of power.

    Args:
      path: the file.
      text: its content.
      new: leave a file that is there as it is; of two writers at once, one wins.
      durable: wait until it is on the disk; of no use to files that are written anew every few seconds.

    Returns:
      Whether the file now holds `text`.
    """
    return _write(path, text.encode(), new=new, durable=durable)


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes bytes as `write_text` does text."""
    _write(path, content)


def _write(path: epath.Path, content: bytes, *, new: bool = False, durable: bool = True) -> bool:
    store = store_of(path)
    with writing(path):
        created = store.create(path, content, durable=durable) if new else None
        if created is not None:
            return created
        if new and path.exists():  # where no store says who was first, a moment is left in which both of two win
            return False
        store.write(path, content, durable=durable)
        return True


def create(path: epath.Path, value: Any, *, durable: bool = True) -> bool | None:
    """Creates a JSON file that is not there yet: True for one of all who try, False for the others.

    None where the storage cannot tell (a file system without links); nothing is written then.
    """
    with writing(path):
        return store_of(path).create(path, _json(value).encode(), durable=durable)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: epath.Path, value: Any, *, new: bool = False, durable: bool = True) -> bool:
    """Writes JSON; see `write_text`."""
    return write_text(path, _json(value), new=new, durable=durable)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; `ValueError` for what is none, or is nested deeper than Python can follow."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_json(path: epath.Path, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`; `UserError` with the remedy when it is not one."""
    found = read_json_if_there(path, remedy)
    if found is None:
        raise UserError(f"{path} cannot be read (No such file or directory); see to its permissions and the storage")
    return found


def read_json_if_there(path: epath.Path, remedy: str) -> dict[str, Any] | None:
    """The same, and None where there is no such file: of storage one request, in place of another that asks first."""
    try:
        value = parse_json(store_of(path).read(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # of which `remedy`, perhaps to remove it, would be the wrong one
        kind = Unavailable if is_object_storage(path) and may_pass(error) else UserError
        raise kind(unreadable(path, error)) from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({str(error)[:120]}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not a JSON object; {remedy}")
    return value
