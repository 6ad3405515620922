"""Log of what happened to a run beside its training: a file of JSON lines for each start."""

import json
import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from etils import epath

from capscale import __version__
from capscale.clock import clock
from capscale.files import parse_json, write_text
from capscale.storage import children

NAME = re.compile(r"log-(\d+)\.jsonl")
_READERS = 8
"""Threads that read logs: of a store each takes a request, most of it waiting."""


class Journal:
    """One start of a run, from its first step here to the end, as `log-NUMBER.jsonl` in the run's directory.

    It is short, and written anew with each event: object storage cannot append.

    Args:
      directory: of the run.
      number: of the start; the generation of its lease, which no other start has.
    """

    def __init__(self, directory: epath.Path, number: int):
        self._path, self._lines = directory / f"log-{number}.jsonl", ""

    def tell(self, event: str, **said: Any) -> None:
        """Adds an event with its time; `UserError` where storage refuses."""
        line = {"event": event, "at": round(clock().time(), 1), **said}
        self._lines += json.dumps(line) + "\n"
        write_text(self._path, self._lines, durable=False)


def process_told() -> dict[str, Any]:
    """The process that starts a run: host, process, device, versions."""
    device = jax.devices()[0].device_kind
    return {"host": platform.node(), "pid": os.getpid(), "device": device, "capscale": __version__}


def read_journals(directory: epath.Path) -> list[list[dict[str, Any]]]:
    """Events of each start of a run, in their order; what is no event is left out."""
    found = [(NAME.fullmatch(path.name), path) for path in children(directory)]
    paths = [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(_events, paths))


def _events(path: epath.Path) -> list[dict[str, Any]]:
    events = []
    for line in path.read_bytes().splitlines():
        try:
            found = parse_json(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("event"), str):
            events.append(found)
    return events
