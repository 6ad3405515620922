"""Packed storage: the bytes a format says it needs, and a file of them.

A field of codes below a radix takes `log2(radix)` bits a code: bit fields for powers of two; other radices as
numbers of many digits, in blocks chosen so that less than a millionth is lost.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from math import ceil, log2
from os import PathLike

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from capscale.artifacts import DIGEST, digest
from capscale.errors import UserError

from .base import NO_CONTEXT, Context, Format
from .nested import Nested
from .serialize import from_json, to_json
from .stated import PACKING, unstated
from .storage import Codes, Field, Shape, Storable

VERSION = 1
KEY = "capscale"
LARGEST_BLOCK = 1024  # digits of one number of a radix that is no power of two


@dataclass(frozen=True)
class Packed:
    """A tensor in the bytes of its format."""

    format: Storable
    shape: Shape
    dtype: str
    fields: dict[str, bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all fields."""
        return sum(len(field) for field in self.fields.values())


def pack(format: Format, x: Array, ctx: Context = NO_CONTEXT) -> Packed:
    """`project(x, ctx)` in the bytes of `format`. Tensors that are empty or not finite are refused."""
    if not isinstance(format, Storable):
        raise UserError(f"{format!r} stores nothing: it has no layout, store and load")
    if reason := unstated(format, PACKING):
        raise UserError(
            f"{format!r} cannot be packed: {reason}. State it where the inherited one holds, such as "
            "`store = Scalar.store` in the class, or write its own"
        )
    if not x.size:
        raise UserError(f"cannot pack an empty tensor of shape {x.shape}")
    if not bool(jnp.all(jnp.isfinite(x))):
        raise UserError(f"cannot pack a tensor of shape {x.shape} that holds NaN or infinity; check its source")
    codes = format.store(x, ctx)
    fields = format.layout(x.shape, x.dtype)
    return Packed(format, x.shape, str(x.dtype), {f.name: to_bytes(codes[f.name], f) for f in fields})


def unpack(packed: Packed) -> Array:
    """`project(x, ctx).value` of what was packed, bit for bit."""
    fields = packed.format.layout(packed.shape, packed.dtype)
    codes = {f.name: from_bytes(packed.fields[f.name], f) for f in fields}
    return packed.format.load(codes, packed.shape, packed.dtype)


def sliced(packed: Packed, bits: int) -> Packed:
    """The model of so many bits that a tensor of nested integers holds, by its codes alone.

    Raises:
      UserError: another format, a slice of one, or bits that are none of its widths.
    """
    if not isinstance(packed.format, Nested) or packed.format.at is not None:
        raise UserError(f"{packed.format!r} holds one width; slices are of nested integers, such as nested-8-4-2")
    narrow = packed.format.sliced(bits)
    codes = {f.name: from_bytes(packed.fields[f.name], f) for f in packed.format.layout(packed.shape, packed.dtype)}
    cut, fields = narrow.narrowed(codes), narrow.layout(packed.shape, packed.dtype)
    return Packed(narrow, packed.shape, packed.dtype, {f.name: to_bytes(cut[f.name], f) for f in fields})


def expected_bytes(format: Storable, shape: Shape, dtype: DTypeLike) -> int:
    """Bytes of all fields: `bits * values / 8`, each field rounded up."""
    return sum(_bytes(f) for f in format.layout(shape, dtype))


def to_bytes(codes: Codes, field: Field) -> bytes:
    """Codes of a field, packed."""
    codes = np.asarray(codes, np.uint32).reshape(-1)
    assert codes.size == field.size, (field, codes.size)
    if _is_power(field.radix):
        width = int(log2(field.radix))
        if width in (8, 16, 32):
            return codes.astype(f"<u{width // 8}").tobytes()
        bits = (codes[:, None] >> np.arange(width, dtype=np.uint32)) & 1
        return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
    digits, width = _block(field.radix)
    stream = [
        (_number(block, field.radix), width if block.size == digits else _width(block.size, field.radix))
        for block in np.split(codes, range(digits, codes.size, digits))
    ]
    bits = np.concatenate([_bits(number, w) for number, w in stream]) if codes.size else np.empty(0, np.uint8)
    return np.packbits(bits, bitorder="little").tobytes()


def from_bytes(data: bytes, field: Field) -> Codes:
    """Inverse of `to_bytes`; data of another length, or codes beyond the radix, are refused."""
    if len(data) != _bytes(field):
        raise UserError(f"field {field.name!r} holds {len(data)} bytes, its format needs {_bytes(field)}: truncated?")
    if _is_power(field.radix):
        width = int(log2(field.radix))
        if width in (8, 16, 32):
            return np.frombuffer(data, f"<u{width // 8}").astype(np.uint32)
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: field.size * width]
        weights = np.uint32(1) << np.arange(width, dtype=np.uint32)
        return (bits.reshape(field.size, width).astype(np.uint32) * weights).sum(axis=1, dtype=np.uint32)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    digits, width = _block(field.radix)
    parts, at = [], 0
    for start in range(0, field.size, digits):
        size = min(digits, field.size - start)
        used = width if size == digits else _width(size, field.radix)
        raw = np.packbits(bits[at : at + used], bitorder="little").tobytes()
        number = int.from_bytes(raw, "little")
        if number >= field.radix**size:
            raise UserError(f"field {field.name!r} holds a code of {field.radix} or more: corrupted")
        parts.append(_digits(number, size, field.radix))
        at += used
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)


def save(path: str | PathLike[str], tensors: dict[str, Packed]) -> None:
    """Writes packed tensors to a safetensors file with a JSON header of their formats and digests."""
    from safetensors.numpy import save_file

    header = {"version": VERSION, "tensors": {name: _described(packed) for name, packed in tensors.items()}}
    arrays = {
        f"{name}/{f}": np.frombuffer(data, np.uint8) for name, p in tensors.items() for f, data in p.fields.items()
    }
    save_file(arrays, path, metadata={KEY: json.dumps(header, sort_keys=True)})


def load(path: str | PathLike[str], known: tuple[type, ...] = ()) -> dict[str, Packed]:
    """Reads what `save` wrote. `known`: classes of formats and grids from outside the package that it may hold."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(KEY)
            arrays = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from error
    if header is None:
        raise UserError(f"{path}: a safetensors file, but not of capscale (no {KEY!r} header)")
    try:
        parsed = json.loads(header)
        version, entries = parsed["version"], parsed["tensors"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its {KEY!r} header is corrupted ({error})") from error
    if version != VERSION:
        raise UserError(f"{path}: written as version {version}; this capscale reads version {VERSION}")
    return {name: _entry(path, name, entry, arrays, known) for name, entry in entries}


def _described(packed: Packed) -> dict:
    """A tensor's entry in the header: what it is, and the SHA-256 of that and of all its bytes."""
    entry = {"format": to_json(packed.format), "shape": list(packed.shape), "dtype": packed.dtype}
    return entry | {DIGEST: _digest(entry, packed.fields)}


def _digest(entry: dict, fields: dict[str, bytes]) -> str:
    parts = [hashlib.sha256(field).hexdigest() for field in fields.values()]
    return digest([{name: value for name, value in entry.items() if name != DIGEST}, parts])


def _entry(
    path: str | PathLike[str], name: str, entry: dict, arrays: dict[str, bytes], known: tuple[type, ...]
) -> Packed:
    try:
        format, shape, dtype = from_json(entry["format"], known), tuple(map(int, entry["shape"])), entry["dtype"]
        layout = format.layout(shape, dtype)
        fields = {f.name: arrays[f"{name}/{f.name}"] for f in layout}
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path}: tensor {name!r} is described incompletely ({error!r}): corrupted") from error
    for field in layout:
        if len(fields[field.name]) != _bytes(field):
            raise UserError(f"{path}: tensor {name!r} holds {len(fields[field.name])} bytes of {field}: corrupted")
    if entry.get(DIGEST, expected := _digest(entry, fields)) != expected:  # files of earlier versions have none
        raise UserError(
            f"{path}: tensor {name!r} was altered after it was written: it has another {DIGEST}; pack it again"
        )
    return Packed(format, shape, dtype, fields)


def _is_power(radix: int) -> bool:
    return radix & (radix - 1) == 0


def _width(digits: int, radix: int) -> int:
    """Bits of the largest number of so many digits."""
    return (radix**digits - 1).bit_length()


@cache
def _block(radix: int) -> tuple[int, int]:
    """Digits of a block, and its bits: the length up to LARGEST_BLOCK that wastes least."""
    digits = min(range(1, LARGEST_BLOCK + 1), key=lambda n: _width(n, radix) / n)
    return digits, _width(digits, radix)


def _bytes(field: Field) -> int:
    if _is_power(field.radix):
        return ceil(field.size * int(log2(field.radix)) / 8)
    digits, width = _block(field.radix)
    whole, rest = divmod(field.size, digits)
    return ceil((whole * width + (_width(rest, field.radix) if rest else 0)) / 8)


def _number(digits: Codes, radix: int) -> int:
    number = 0
    for digit in digits[::-1].tolist():
        number = number * radix + digit
    return number


def _digits(number: int, size: int, radix: int) -> Codes:
    digits = np.empty(size, np.uint32)
    for i in range(size):
        number, digits[i] = divmod(number, radix)
    return digits


def _bits(number: int, width: int) -> np.ndarray:
    raw = np.frombuffer(number.to_bytes(ceil(width / 8), "little"), np.uint8)
    return np.unpackbits(raw, bitorder="little")[:width]


__all__ = ["Packed", "expected_bytes", "load", "pack", "save", "sliced", "unpack"]
