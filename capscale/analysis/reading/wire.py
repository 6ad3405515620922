"""Messages in the wire format of protocol buffers, read without their schemas: fields by number.

The format: https://protobuf.dev/programming-guides/encoding. Trackers write their logs in it; with a few field numbers
these are read without installing the trackers.
"""

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}

Value = int | bytes


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Field numbers and values: integers of varints, bytes of all else.

    Raises:
      ValueError: it ends within a field, or is no message.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = _varint(message, place)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"field {number} is of unknown kind {kind}")
        if place + length > len(message):
            raise ValueError(f"field {number} goes on beyond its message")
        yield number, message[place : place + length]
        place += length


def first(message: bytes, number: int) -> Value | None:
    """The last value of a field, which is the one that counts; None where it is not there."""
    found = None
    for field, value in fields(message):
        found = value if field == number else found
    return found


def submessages(message: bytes, number: int) -> list[bytes]:
    """All values of a repeated field of messages or strings."""
    return [value for field, value in fields(message) if field == number and isinstance(value, bytes)]


def submessage(message: bytes, number: int) -> bytes:
    """The message in a field; the empty one, whose fields are at their defaults, where it is not there."""
    value = first(message, number)
    return value if isinstance(value, bytes) else b""


def text(message: bytes, number: int) -> str:
    """The string in a field."""
    return submessage(message, number).decode("utf-8", "replace")


def integer(message: bytes, number: int) -> int:
    """The signed integer in a field."""
    value = first(message, number)
    value = value if isinstance(value, int) else 0
    return value - 2**64 if value >= 2**63 else value


def real(value: Value | None) -> float | None:
    """A float or double of the wire; None for anything else."""
    if not isinstance(value, bytes) or len(value) not in (4, 8):
        return None
    return struct.unpack("<f" if len(value) == 4 else "<d", value)[0]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("it ends within a number")
