"""Checkpoints in object storage that lack orbax's mark of a complete one: unfinished, or copied without it."""

import warnings
from collections.abc import Callable
from typing import Any

from etils import epath

from capscale.errors import UserError
from capscale.files import is_there, read_json, write_text, writing
from capscale.storage import children

MARK = "commit_success.txt"
"""File that orbax writes last where a directory cannot be renamed as a whole, in a checkpoint and in each of its items:
https://github.com/google/orbax/blob/main/checkpoint/orbax/checkpoint/_src/path/atomicity.py."""
METADATA = "_CHECKPOINT_METADATA"
"""File that orbax writes first, and again with the time of the end ahead of the mark."""


def settle_unmarked(directory: epath.Path, set_aside: Callable[[epath.Path], None]) -> None:
    """Decides what each checkpoint without a mark is; orbax would delete them all.

    One that says when it was completed is a copy that left the mark out, as of a file system where older versions of
    orbax write none: it gets one, and whoever reads it finds out whether it is whole. One that says when it was begun,
    and no more, is what a killed worker has left, and is deleted. Of any other nothing is known, and `set_aside` takes
    it out of the way.
    """
    for path in children(directory):
        if path.name.isdecimal() and not (path / MARK).exists():
            said = _metadata(path / METADATA)
            if said.get("commit_timestamp_nsecs"):
                for place in (path / "default", path):
                    write_text(place / MARK, f"Copied without it; complete by {METADATA}")
            elif said.get("init_timestamp_nsecs"):
                with writing(path):
                    path.rmtree()
            else:
                warnings.warn(f"checkpoint {path} does not say that it is complete; it is set aside", stacklevel=2)
                set_aside(path)


def _metadata(path: epath.Path) -> dict[str, Any]:
    try:
        return read_json(path, "") if is_there(path) else {}
    except UserError:
        return {}
