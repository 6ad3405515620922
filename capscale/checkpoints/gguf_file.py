"""GGUF files: header, metadata and tensors, written and read without llama.cpp's package.

Source: github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3, little-endian.
"""

import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from capscale.checkpoints.gguf_blocks import TYPES, GgmlType
from capscale.errors import UserError
from capscale.files import unreadable, writing

MAGIC, VERSION, READABLE, ALIGNMENT = b"GGUF", 3, (2, 3), 32
MOST = 1 << 24  # tensors, keys or entries of an array in one file, and bytes of a word: beyond is damage
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of metadata by their number, as `struct` has them; 8 is a string and 9 an array."""
UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


class GgufTensor(NamedTuple):
    """One tensor of a file.

    Attributes:
      kind: its type.
      shape: as numpy has it: the axis that blocks lie on comes last.
      start: byte of the file that its data begin at.
    """

    kind: GgmlType
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) // self.kind.values * self.kind.nbytes


class Gguf(NamedTuple):
    """Header of a file: metadata and tensors by their names."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def write(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[GgmlType, tuple[int, ...], Any]]
) -> Path:
    """Writes a file.

    Args:
      path: of the file.
      metadata: strings, booleans, whole numbers (uint32) and floats (float32) by key.
      tensors: type, shape and a function that makes the bytes of each, which is called as they are written.

    Returns:
      The path.
    """
    header = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    header += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, (kind, shape, _) in tensors.items():
        header.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind.number, offset))
        offset += _aligned(prod(shape) // kind.values * kind.nbytes)
    start = b"".join(header)
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with temporary.open("wb") as file:
            file.write(start + bytes(_aligned(len(start)) - len(start)))
            for kind, shape, make in tensors.values():
                data = np.ascontiguousarray(make()).tobytes()
                assert len(data) == prod(shape) // kind.values * kind.nbytes
                file.write(data + bytes(_aligned(len(data)) - len(data)))
        temporary.rename(path)
    return path


def _aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    return struct.pack("<I", STRING) + _string(value)


def read(path: Path) -> Gguf:
    """Header of a file; the data stay where they are.

    Raises `UserError` for another file, another version, a type that is not known, and data beyond the end of the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(path, _Reader(file, size))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(unreadable(path, error)) from error
    except (_Damaged, UnicodeDecodeError, OverflowError) as error:
        raise UserError(f"{path}: not a whole GGUF file ({error}); fetch it again") from error


class _Damaged(Exception):
    """Says how a file is no GGUF file."""


class _Reader:
    """Numbers and words of a header, in order."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self.size = file, size

    @property
    def at(self) -> int:
        return self._file.tell()

    def take(self, count: int) -> bytes:
        found = self._file.read(count)
        if len(found) < count:
            raise _Damaged("it ends inside its header")
        return found

    def numbers(self, format: str) -> Sequence[Any]:
        return struct.unpack(f"<{format}", self.take(struct.calcsize(f"<{format}")))

    def count(self, what: str) -> int:
        (found,) = self.numbers("Q")
        if found > MOST:
            raise _Damaged(f"it says that it has {found} {what}")
        return found

    def string(self) -> str:
        return self.take(self.count("bytes in a word")).decode()

    def value(self, depth: int = 0) -> Any:
        (kind,) = self.numbers("I")
        return self._of_kind(kind, depth)

    def _of_kind(self, kind: int, depth: int) -> Any:
        if kind in SCALARS:
            return self.numbers(SCALARS[kind])[0]
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth > 2:
            raise _Damaged(f"metadata of type {kind}")
        (inner,) = self.numbers("I")
        count = self.count("entries in an array")
        if inner in SCALARS:
            return list(self.numbers(f"{count}{SCALARS[inner]}"))
        return [self._of_kind(inner, depth + 1) for _ in range(count)]


def _read(path: Path, reader: _Reader) -> Gguf:
    if reader.take(len(MAGIC)) != MAGIC:
        raise _Damaged("it does not begin with GGUF")
    (version,) = reader.numbers("I")
    if version not in READABLE:
        raise _Damaged(f"it is of version {version}, and {VERSION} is read")
    count, keys = reader.count("tensors"), reader.count("keys")
    metadata = {}
    for _ in range(keys):
        key = reader.string()
        metadata[key] = reader.value()
    kinds = {kind.number: kind for kind in TYPES.values()}
    found: dict[str, tuple[GgmlType, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = reader.string()
        (axes,) = reader.numbers("I")
        if axes > 8:
            raise _Damaged(f"tensor {name!r} has {axes} axes")
        *sizes, number, offset = reader.numbers(f"{axes}QIQ")
        if number not in kinds:
            raise _Damaged(f"tensor {name!r} is of type {number}, which is not known")
        found[name] = kinds[number], tuple(sizes[::-1]), offset
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Damaged(f"general.alignment is {alignment!r}")
    begin = _aligned(reader.at, alignment)
    tensors = {name: GgufTensor(kind, shape, begin + offset) for name, (kind, shape, offset) in found.items()}
    for name, tensor in tensors.items():
        if prod(tensor.shape) % tensor.kind.values or tensor.start + tensor.nbytes > reader.size:
            raise _Damaged(f"tensor {name!r} of shape {tensor.shape} reaches beyond its end")
    return Gguf(path, metadata, tensors)
