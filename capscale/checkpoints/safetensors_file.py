"""Tensors of safetensors checkpoints, one at a time: a file, or a directory of shards with its index."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from capscale.errors import UserError
from capscale.files import parse_json, plain_name, unreadable

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""Types of the safetensors specification that numpy has, with those of ml_dtypes."""
FLOATS = ("F32", "BF16", "F16")
"""Types of weights: what a projection takes."""
PREFIX = 8  # bytes of the header's length, at the beginning of a file


class Entry(NamedTuple):
    """Place of one tensor.

    Attributes:
      path: the file that holds it.
      dtype: the specification's word, such as BF16.
      shape: of the array.
      start, end: bytes of it in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


class Tensors(Mapping[str, Entry]):
    """Tensors of a checkpoint by name; `read` maps the bytes of one, and no other is in memory.

    Raises `UserError` for what is no safetensors checkpoint: another file, a truncated one, a shard that is missing.

    Example: `Tensors(Path("model")).read("lm_head.weight")`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.metadata: dict[str, str] = {}
        """Words in the headers of all files."""
        self._entries: dict[str, Entry] = {}
        for file in _files(path):
            entries, metadata = _header(file)
            if twice := sorted(set(entries) & set(self._entries)):
                raise UserError(f"{path}: {twice[0]!r} is in {self._entries[twice[0]].path.name} and in {file.name}")
            self._entries |= entries
            self.metadata |= metadata
        if path.is_dir() and (path / INDEX).exists():
            self._check_index(path / INDEX)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, name: str) -> np.ndarray:
        """Values of a tensor, read-only. Raises `UserError` for a type that numpy has not, such as 6-bit floats."""
        entry = self[name]
        if entry.dtype not in DTYPES:
            raise UserError(f"{entry.path}: {name!r} is of type {entry.dtype}; known are {', '.join(DTYPES)}")
        if not entry.nbytes:
            return np.empty(entry.shape, DTYPES[entry.dtype])
        raw = np.memmap(entry.path, np.uint8, "r", entry.start, (entry.nbytes,))
        return raw.view(DTYPES[entry.dtype]).reshape(entry.shape)

    def _check_index(self, index: Path) -> None:
        for name, file in _weight_map(index).items():
            if name not in self or self[name].path.name != file:
                raise UserError(f"{index} says that {file} holds {name!r}, and it does not; fetch both again")


def local_path(text: str) -> Path:
    """The path of a checkpoint on this machine; `UserError` for one in object storage."""
    if "://" in text:
        raise UserError(f"{text}: tensors are mapped into memory, so copy the checkpoint to this machine first")
    return Path(text)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_file():
        return [path]
    if (path / INDEX).exists():
        files = [path / name for name in dict.fromkeys(_weight_map(path / INDEX).values())]
        if missing := [file.name for file in files if not file.exists()]:
            raise UserError(
                f"{path}: {len(missing)} of {len(files)} shards are missing: {missing[0]}; fetch them again"
            )
        return files
    if (path / SINGLE).exists():
        return [path / SINGLE]
    pickles = [file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth")]
    remedy = (
        f"; {pickles[0]} may run code when it is read, save it as safetensors where you trust it" if pickles else ""
    )
    raise UserError(f"{path}: there is no {SINGLE} and no {INDEX}{remedy}")


def _weight_map(index: Path) -> dict[str, str]:
    """File of every tensor; a name of a file is that of one beside the index."""
    remedy = "fetch it again"
    try:
        found = parse_json(index.read_bytes())["weight_map"]
        return {str(name): plain_name(file, index, f"the file of {name!r}", remedy) for name, file in found.items()}
    except OSError as error:
        raise UserError(unreadable(index, error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no index of shards ({error}); {remedy}") from error


def _header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Every tensor of a file and the words in its header. The safetensors library has checked lengths and offsets."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(PREFIX), "little")
            header = json.loads(file.read(length))
    except PermissionError as error:
        raise UserError(unreadable(path, error)) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error
    metadata = header.pop("__metadata__", {})
    begin = PREFIX + length
    entries = {
        name: Entry(path, found["dtype"], tuple(found["shape"]), *(begin + at for at in found["data_offsets"]))
        for name, found in header.items()
    }
    return entries, metadata
