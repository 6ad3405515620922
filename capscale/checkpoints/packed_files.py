"""Tensors as a checkpoint stores them: format and bits of those that are packed, values of the rest."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from capscale.checkpoints import gguf_file, packed_model
from capscale.checkpoints.architecture import CONFIG
from capscale.checkpoints.safetensors_file import FLOATS, Tensors
from capscale.errors import UserError
from capscale.files import parse_json
from capscale.formats import packing
from capscale.formats.catalog import label
from capscale.formats.dense import Dense
from capscale.models.assigned import TABLES
from capscale.models.parametrized import of_projections
from capscale.models.projected import KERNEL, kernels_of

GGUF = ".gguf"
PACKED, SCALES = "weight_packed", ("weight_scale", "weight_global_scale", "weight_zero_point", "weight_shape")
GGUF_FLOATS: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Stored(NamedTuple):
    """One tensor as it lies in a file.

    Attributes:
      name, shape: of the tensor that it stands for.
      format: the word of the file for its storage, such as BF16 or Q4_0; of a matrix that is made of other numbers
        the name of its parametrization.
      bits: per value, scales included; of such a matrix those of the stored numbers, for each of its entries.
      read: gives its values, for floats of 16 and 32 bits, and for matrices that are made of such; None for all that is
        packed.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    bits: float
    read: Callable[[], np.ndarray] | None = None


def stored_tensors(path: Path) -> Iterator[Stored]:
    """Every tensor of a GGUF file, a safetensors file or a directory of these, in the order of the file.

    Understood are the packed layouts of compressed-tensors, torchao, GGUF and `capscale.formats.packing`, and what
    `capscale export --as capscale` writes. Raises `UserError` for files that are not whole.
    """
    if path.suffix == GGUF:
        yield from _of_gguf(gguf_file.read(path))
        return
    exported = path if path.is_dir() else path.parent
    if path in (exported, exported / packed_model.TENSORS) and (exported / packed_model.DESCRIPTION).exists():
        yield from _of_export(exported)
        return
    tensors = Tensors(path)
    if packing.KEY in tensors.metadata:
        for name, packed in packing.load(path).items():
            yield Stored(name, packed.shape, label(packed.format), 8 * packed.nbytes / prod(packed.shape))
        return
    yield from _of_safetensors(tensors, _quantization(path))


def _of_export(path: Path) -> Iterator[Stored]:
    """A model in the bytes of its formats: what is made of other numbers comes behind the rest, as matrices."""
    from capscale.checkpoints.source import read_source  # with all of training, which no other file here takes

    source, (tensors, _) = read_source(path), packed_model.read(path)
    own = {} if source.stored is None else of_projections(source.model, source.stored.held)
    made: dict[str, Any] = {str(name): each for name, each in own.items()}
    nbytes: dict[str, int] = {}
    for name, packed in tensors.items():
        kernel, _, _ = name.rpartition("/")
        if kernel.endswith(f"/{KERNEL}"):
            nbytes[kernel] = nbytes.get(kernel, 0) + packed.nbytes
            continue
        is_matrix = packed.format == Dense() and name.rpartition("/")[2] in (KERNEL, *TABLES)
        read = partial(_unpacked, packed) if is_matrix else None
        yield Stored(name, packed.shape, label(packed.format), 8 * packed.nbytes / prod(packed.shape), read)
    kernels = kernels_of(source.params)
    for kernel, size in nbytes.items():
        rows, name = np.swapaxes(np.asarray(kernels[kernel]), -1, -2), str(made[kernel.split("/")[-2]])
        for layer, matrix in enumerate(rows):
            path_of_layer, bits = packed_model.of_layer(kernel, layer), 8 * size / rows.size
            yield Stored(path_of_layer, matrix.shape, name, bits, partial(np.ascontiguousarray, matrix))


def _unpacked(packed: packing.Packed) -> np.ndarray:
    return np.asarray(packing.unpack(packed), np.float32)


def _of_gguf(file: gguf_file.Gguf) -> Iterator[Stored]:
    for name, tensor in file.tensors.items():
        read = partial(_mapped, file.path, tensor) if tensor.kind.name in GGUF_FLOATS else None
        yield Stored(name, tensor.shape, tensor.kind.name, tensor.kind.bits, read)


def _mapped(path: Path, tensor: gguf_file.GgufTensor) -> np.ndarray:
    return np.memmap(path, GGUF_FLOATS[tensor.kind.name], "r", tensor.start, tensor.shape)


def _quantization(path: Path) -> Mapping[str, Any]:
    """`quantization_config` of the config.json beside the tensors; empty without one."""
    config = (path if path.is_dir() else path.parent) / CONFIG
    try:
        found = parse_json(config.read_bytes())
    except (OSError, ValueError):
        return {}
    told = found.get("quantization_config") if isinstance(found, dict) else None
    return told if isinstance(told, dict) else {}


def _of_safetensors(tensors: Tensors, quantization: Mapping[str, Any]) -> Iterator[Stored]:
    taken: set[str] = set()
    for name, entry in tensors.items():
        if name in taken:
            continue
        packed = _compressed_tensors(tensors, name, quantization) or _torchao(tensors, name)
        if packed is not None:
            stored, parts = packed
            taken |= parts
            yield stored
        elif not _is_part(tensors, name):
            bits = 8 * entry.nbytes / max(prod(entry.shape), 1)
            read = partial(tensors.read, name) if entry.dtype in FLOATS else None
            yield Stored(name, entry.shape, entry.dtype, bits, read)


def _is_part(tensors: Tensors, name: str) -> bool:
    """Whether a tensor belongs to one that is packed, and which the file may have before or after it."""
    module, _, part = name.rpartition(".")
    if part in SCALES:
        return f"{module}.{PACKED}" in tensors or f"{module}.weight" in tensors
    return part.startswith("_weight_") and f"{module}._weight_qdata" in tensors


def _compressed_tensors(tensors: Tensors, name: str, quantization: Mapping[str, Any]) -> tuple[Stored, set[str]] | None:
    """A layer of compressed-tensors: packed codes, or codes of 8 bits, with scales beside them."""
    module, _, part = name.rpartition(".")
    others = [f"{module}.{scale}" for scale in SCALES if f"{module}.{scale}" in tensors]
    is_codes = part == PACKED or (part == "weight" and tensors[name].dtype in ("F8_E4M3", "I8") and others)
    if not is_codes:
        return None
    parts = {name, *others}
    groups = quantization.get("config_groups")
    first = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    told = first.get("weights") if isinstance(first, dict) else None
    told = told if isinstance(told, dict) else {}
    codes, shape = tensors[name], tensors[name].shape
    if f"{module}.weight_shape" in tensors:
        shape = tuple(int(n) for n in tensors.read(f"{module}.weight_shape").reshape(-1))
    elif part == PACKED and codes.dtype == "U8":  # two codes of FP4 a byte
        shape = (*shape[:-1], 2 * shape[-1])
    if not prod(shape):
        raise UserError(f"{codes.path}: {name!r} says that its shape is {shape}: corrupted")
    size = sum(tensors[one].nbytes for one in parts if not one.endswith("weight_shape"))
    words = [quantization.get("format"), f"{told.get('type', '')}{told.get('num_bits', '')}"]
    words += [f"g{told['group_size']}"] if told.get("group_size") else [told.get("strategy")]
    said = " ".join(str(word) for word in words if word) if told else f"packed {codes.dtype}"
    return Stored(f"{module}.weight", shape, said, 8 * size / prod(shape)), parts


def _torchao(tensors: Tensors, name: str) -> tuple[Stored, set[str]] | None:
    """A tensor subclass of torchao, by what the header says of it."""
    module, _, part = name.rpartition(".")
    if not part.startswith("_weight_"):
        return None
    try:
        told = json.loads(tensors.metadata[f"{module}.weight"])
        kind, data = str(told["_type"]), told["_data"]
        parts = {f"{module}._weight_{one}" for one in told["_tensor_data_names"]}
    except (KeyError, TypeError, ValueError):
        return None
    if name not in parts or not parts <= set(tensors) or f"{module}._weight_qdata" not in parts:
        return None
    codes = tensors[f"{module}._weight_qdata"]
    element = data.get("elem_dtype") if isinstance(data, dict) else None
    word = str(element.get("_data")) if isinstance(element, dict) else ""
    halves = codes.dtype == "U8" and (kind == "NVFP4Tensor" or word.startswith("float4"))
    shape = (*codes.shape[:-1], 2 * codes.shape[-1]) if halves else codes.shape
    size = sum(tensors[one].nbytes for one in parts)
    return Stored(f"{module}.weight", shape, f"{kind} {word}".strip(), 8 * size / max(prod(shape), 1)), parts
