"""TensorBoard's event files: scalars and hyperparameters of every run below a directory.

An event file is a list of records (length, its checksum, an `Event`, its checksum); numbers of fields are those of
tensorboard/compat/proto/{event,summary,tensor}.proto and tensorboard/plugins/hparams/plugin_data.proto.
"""

import math
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from capscale.analysis.reading import wire
from capscale.analysis.reading.columns import plain_name
from capscale.errors import UserError

EVENTS = ".tfevents."
"""In the name of every event file."""
STEP, SUMMARY, VALUE = 2, 5, 1
TAG, SIMPLE_VALUE, TENSOR, METADATA = 1, 2, 8, 9
PLUGIN, PLUGIN_NAME, CONTENT = 1, 1, 2
TENSOR_CONTENT, FLOATS, DOUBLES = 4, 5, 6
SESSION_START, HPARAMS, KEY, MAPPED = 3, 1, 1, 2
NUMBER, STRING, BOOLEAN = 2, 3, 4


def is_events(path: epath.Path) -> bool:
    """Whether a file is one of TensorBoard's, by its name."""
    return EVENTS in path.name


def read_events(root: epath.Path, files: Sequence[epath.Path]) -> list[dict[str, Any]]:
    """One record for every step of a run at which a loss was written: its scalars and hyperparameters.

    A run is a directory; one below it that holds nothing but hyperparameters and their metrics, as `add_hparams`
    makes, belongs to it. A run without a loss has a record of its last scalars.

    Raises:
      UserError: a file is damaged, or holds no scalars.
    """
    runs: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    settings: dict[str, dict[str, Any]] = defaultdict(dict)
    for file in sorted(files):
        run = str(file.parent.relative_to(root))
        try:
            for event in _records(file.read_bytes()):
                for value in wire.submessages(wire.submessage(event, SUMMARY), VALUE):
                    settings[run] |= _hparams(value)
                    if (number := _scalar(value)) is not None:
                        runs[run][wire.integer(event, STEP)][wire.text(value, TAG)] = number
        except ValueError as error:
            raise UserError(f"{file}: not a readable event file: {error}; copy it again") from error
    for run in list(settings):
        parent = str(epath.Path(run).parent)
        if settings[run] and run not in (".", parent) and parent in runs and len(runs[run]) <= 1:
            # add_hparams keeps them in a run of their own, below the one whose curves they explain.
            settings[parent] |= settings.pop(run)
            runs.pop(run, None)
    if not runs:
        raise UserError(f"{root}: its event files hold no scalars")
    records: list[dict[str, Any]] = []
    for run, steps in runs.items():
        name = root.name if run == "." else run
        records += [{"run": name, "step": step, **settings[run], **scalars} for step, scalars in _told(steps)]
    return records


def _told(steps: dict[int, dict[str, float]]) -> list[tuple[int, dict[str, float]]]:
    """Steps with some scalar that is called a loss, and else all scalars at their last."""
    evaluated = {
        tag for scalars in steps.values() for tag in scalars if "loss" in plain_name(tag) and "train" not in tag.lower()
    }
    some = [(step, steps[step]) for step in sorted(steps) if evaluated & set(steps[step])]
    if some:
        return some
    last = {tag: value for step in sorted(steps) for tag, value in steps[step].items()}
    return [(max(steps), last)] if steps else []


def _records(content: bytes) -> Iterator[bytes]:
    """Events of a file; the last may be half-written, as that of a run that is going on is."""
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        if length > len(content):
            raise ValueError(f"a record of {length:,} bytes at byte {place:,}")
        if place + 16 + length > len(content):
            return
        yield content[place + 12 : place + 12 + length]
        place += 16 + length


def _scalar(value: bytes) -> float | None:
    """The number of a summary's value; None for images, texts, histograms and the like."""
    if (simple := wire.real(wire.first(value, SIMPLE_VALUE))) is not None:
        return simple
    plugin = wire.text(wire.submessage(wire.submessage(value, METADATA), PLUGIN), PLUGIN_NAME)
    tensor = wire.submessage(value, TENSOR)
    if not tensor or plugin not in ("", "scalars"):
        return None
    for field in (FLOATS, DOUBLES, TENSOR_CONTENT):
        if (number := wire.real(wire.first(tensor, field))) is not None:
            return number
    return None


def _hparams(value: bytes) -> dict[str, Any]:
    """Hyperparameters of a session's start; none of other values."""
    plugin = wire.submessage(wire.submessage(value, METADATA), PLUGIN)
    if wire.text(plugin, PLUGIN_NAME) != "hparams":
        return {}
    start = wire.submessage(wire.submessage(plugin, CONTENT), SESSION_START)
    found: dict[str, Any] = {}
    for entry in wire.submessages(start, HPARAMS):
        kinds = dict(wire.fields(wire.submessage(entry, MAPPED)))
        if NUMBER in kinds:
            number = wire.real(kinds[NUMBER])
            found[wire.text(entry, KEY)] = math.nan if number is None else number
        elif STRING in kinds:
            found[wire.text(entry, KEY)] = bytes(kinds[STRING]).decode("utf-8", "replace")
        elif BOOLEAN in kinds:
            found[wire.text(entry, KEY)] = bool(kinds[BOOLEAN])
    return found
