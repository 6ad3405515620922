"""Files of a run: JSON written whole or not at all, and errors that say what to do."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

from capscale.errors import UserError


@contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """Turns an `OSError` (no space, read-only, no permission) into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path} cannot be written ({reason}); free space, fix permissions or choose another --out"
        ) from error


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON under a temporary name and renames it: a reader sees the old file or the whole new one."""
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    with writing(path):
        try:
            temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def read_json(path: epath.Path, remedy: str) -> dict[str, Any]:
    """The JSON object in `path`; `UserError` with the remedy when it is not one."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({str(error)[:120]}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not a JSON object; {remedy}")
    return value
