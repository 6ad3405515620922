"""Runs of Weights & Biases on disk: logs of `run-*.wandb`, and summaries with their configuration.

A log is one of LevelDB (blocks of 32 KiB; each piece has a checksum, a length and a kind) after seven bytes of
its own, of `Record`s; numbers of fields are those of wandb/proto/wandb_internal.proto.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from capscale.analysis.reading import wire
from capscale.analysis.reading.columns import plain_name
from capscale.errors import UserError
from capscale.files import parse_json

LOG = ".wandb"
SUMMARY = "wandb-summary.json"
MAGIC, HEADER = b":W&B", 7
BLOCK = 32 * 1024
WHOLE, BEGIN, MIDDLE, END = 1, 2, 3, 4
HISTORY, SUMMARIES, CONFIG, RUN, EXIT = 2, 3, 5, 17, 18
ITEM, UPDATE, KEY, NESTED_KEY, JSON = 1, 1, 1, 2, 16
RUN_ID, RUN_CONFIG, RUN_SUMMARY, DISPLAY_NAME = 1, 4, 5, 8


def is_run_file(path: epath.Path) -> bool:
    """Whether a file is the log or the summary of a run."""
    return path.name.endswith(LOG) or path.name == SUMMARY


def read_runs(files: Sequence[epath.Path]) -> list[dict[str, Any]]:
    """One record for every step at which a run wrote a loss, or one of its summary where it wrote none.

    Columns are the configuration's, and of the step or the summary. A summary beside a log is left out.

    Raises:
      UserError: a file is damaged.
    """
    logs = [file for file in files if file.name.endswith(LOG)]
    logged = {file.parent for file in logs}
    records: list[dict[str, Any]] = []
    for file in sorted(files):
        try:
            if file.name.endswith(LOG):
                records += _log(file)
            elif file.parent.parent not in logged:
                records.append(_summary(file))
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file}: not a readable run of W&B: {error}; copy it again") from error
    return records


def _log(file: epath.Path) -> list[dict[str, Any]]:
    head: dict[str, Any] = {"run": file.stem.removeprefix("run-")}
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    steps: list[dict[str, Any]] = []
    ended = None
    for record in _pieces(file.read_bytes()):
        for field, value in wire.fields(record):
            if not isinstance(value, bytes):
                continue
            if field == RUN:
                head["run"] = wire.text(value, DISPLAY_NAME) or wire.text(value, RUN_ID) or head["run"]
                config |= _items(wire.submessage(value, RUN_CONFIG), UPDATE)
                summary |= _items(wire.submessage(value, RUN_SUMMARY), UPDATE)
            elif field == CONFIG:
                config |= _items(value, UPDATE)
            elif field == SUMMARIES:
                summary |= _items(value, UPDATE)
            elif field == HISTORY:
                steps.append(_items(value, ITEM))
            elif field == EXIT:
                ended = "finished" if wire.integer(value, 1) == 0 else "failed"
    config = {name: value for name, value in config.items() if name != "_wandb"}
    head["state"] = ended or "running"
    told = [step for step in steps if any(_is_loss(name) for name in step)]
    return [head | config | step for step in told] or [head | config | summary]


def _is_loss(name: str) -> bool:
    plain = plain_name(name)
    return "loss" in plain and "train" not in plain


def _items(message: bytes, number: int) -> dict[str, Any]:
    """Keys and values of a list of items, nested keys with dots between."""
    found: dict[str, Any] = {}
    for item in wire.submessages(message, number):
        nested = [key.decode("utf-8", "replace") for key in wire.submessages(item, NESTED_KEY)]
        key = ".".join(nested) or wire.text(item, KEY)
        found[key] = parse_json(wire.text(item, JSON) or "null")
    return found


def _pieces(content: bytes) -> Iterator[bytes]:
    """Records of a log; the last may be half-written, as that of a run that is going on is."""
    if not content.startswith(MAGIC):
        raise ValueError("it does not begin as a log of W&B does")
    place, pending = HEADER, b""
    while place < len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # the rest of a block that no piece fits into
            place += left
            continue
        if place + HEADER > len(content):
            return
        length, kind = struct.unpack_from("<HB", content, place + 4)
        place += HEADER
        if place + length > len(content):
            return
        piece, place = content[place : place + length], place + length
        if kind not in (WHOLE, BEGIN, MIDDLE, END):
            raise ValueError(f"a piece of unknown kind {kind} at byte {place:,}")
        pending = piece if kind in (WHOLE, BEGIN) else pending + piece
        if kind in (WHOLE, END):
            yield pending


def _summary(file: epath.Path) -> dict[str, Any]:
    """The summary of a run that was synchronised, with the configuration and metadata beside it."""
    import yaml

    folder = file.parent
    name = folder.parent.name if folder.name == "files" else folder.name
    found: dict[str, Any] = {"run": name.rpartition("-")[2] or name}
    if (config := folder / "config.yaml").exists():
        try:
            content = yaml.safe_load(config.read_bytes())
        except yaml.YAMLError as error:
            raise UserError(f"{config}: not readable YAML: {' '.join(str(error).split())[:120]}") from error
        for key, entry in (content if isinstance(content, dict) else {}).items():
            if not str(key).startswith("_wandb") and key != "wandb_version":
                found[str(key)] = entry["value"] if isinstance(entry, dict) and "value" in entry else entry
    summary = json.loads(file.read_bytes())
    if not isinstance(summary, dict):
        raise ValueError("it holds no JSON object")
    return found | summary
