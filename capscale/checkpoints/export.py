"""A decoder written for other libraries: dense, rounded, or packed in the layout of one of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from capscale.checkpoints import compressed_tensors, gguf_blocks, gguf_model, torchao
from capscale.checkpoints.config_writer import config_of
from capscale.checkpoints.huggingface import NUMPY, Place, places, rows_of
from capscale.checkpoints.source import Source
from capscale.checkpoints.writing import Folder, copy_tokenizer
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import learns
from capscale.formats.catalog import label
from capscale.representation import Operand, Representation

Container = Literal["hf", "compressed-tensors", "torchao", "gguf"]
CONTAINERS: tuple[Container, ...] = get_args(Container)
Dtype = Literal["float32", "bfloat16", "float16"]


class Written(NamedTuple):
    """Files of an export, and what of it is packed.

    Attributes:
      files: all of them.
      format: of the packed matrices; None where there are none.
      layout: as the container calls it.
      packed_values, packed_bytes: of these matrices, scales included.
      other_bytes: of all other tensors.
    """

    files: list[Path]
    format: Format | None
    layout: str
    packed_values: int
    packed_bytes: int
    other_bytes: int

    @property
    def bits(self) -> float | None:
        """Bits per packed value, scales included; None where nothing is packed."""
        return 8 * self.packed_bytes / self.packed_values if self.packed_values else None


def with_weights(source: Source, format: Format | None) -> Source:
    """`source` with its weights to be held in `format`; as they were trained where it is None.

    Raises `UserError` for a run that was trained in another format: its weights would be rounded twice.
    """
    if format is None:
        return source
    own = source.one_format(f"--weights {label(format)}").weights
    if not own.is_dense and own.format != format:
        raise UserError(
            f"{source.path} was trained in {label(own.format)}; leave --weights out, or give a dense run: what is "
            f"rounded to one format is not what {label(format)} makes of its masters in training"
        )
    return source._replace(weights=Representation(Operand(format))) if own.is_dense else source


def export(source: Source, container: Container, out: Path, dtype: Dtype | None = None) -> Written:
    """Writes a decoder into a new directory, and beside it the tokenizer that its source has, but for gguf.

    Args:
      source: the decoder, and the format that its linear layers are held in.
      container: "hf" writes their values as they are, in `dtype`; the others their codes and scales, where they have a
        layout for the format.
      out: a directory that is new or empty.
      dtype: of all that is not packed; that of the model's computation where it is None.

    Raises:
      UserError: a format, a rotation or a model that the container does not hold, with the nearest that it does.
    """
    name: Dtype = dtype or source.model.dtype
    if container == "gguf":
        return _gguf(source, out, name, _packable(source, container))
    if container == "hf":
        written = _rounded(source, out, name)
    else:
        written = _packed_folder(source, container, out, name, _packable(source, container))
    return written._replace(files=[*written.files, *copy_tokenizer(source.path, out)])


def _rounded(source: Source, out: Path, dtype: Dtype) -> Written:
    config, folder, total = config_of(source.model, dtype), Folder(out), 0
    held = source.held()
    for name, place in places(source.model).items():
        value = np.ascontiguousarray(rows_of(held, place)).astype(NUMPY[dtype])
        total += value.nbytes
        folder.add(name, value)
    return Written(folder.finish(config), None, dtype, 0, 0, total)


def _packable(source: Source, container: Container) -> Format:
    """The format of the weights, if packed files can say all that makes its values."""
    held = source.one_format(f"--as {container}")
    format = held.weights.format
    if held.weights.is_dense:
        raise UserError(f"--as {container} packs compressed weights, and these are dense; name a format by --weights")
    if held.hadamard is not None:
        raise UserError(
            f"{container} cannot hold weights in a basis that is rotated in blocks of {held.hadamard}; the "
            "nearest is --as hf, which writes their values rotated back"
        )
    if learns(format):
        raise UserError(
            f"{container} cannot hold {label(format)}: its learned steps are of levels of half a step; the nearest is "
            "--as hf, which writes the values"
        )
    return format


def _packed_folder(source: Source, container: Container, out: Path, dtype: Dtype, format: Format) -> Written:
    config = config_of(source.model, dtype)
    if container == "compressed-tensors":
        layout = compressed_tensors.layout_of(format).name
        config["quantization_config"] = compressed_tensors.config(format)
    else:
        torchao.check(format)
        layout = "torchao"
    folder, total, names = Folder(out), _Total(), places(source.model)
    if container == "torchao":
        folder.metadata |= torchao.header({name: place.is_kernel for name, place in names.items()}, format, dtype)
    for name, place in names.items():
        rows = rows_of(source.params, place)
        if not place.is_kernel:
            total.other += folder.add(name, np.ascontiguousarray(rows).astype(NUMPY[dtype]))
            continue
        module = name.removesuffix(".weight")
        parts = (
            {f"{module}.{part}": v for part, v in compressed_tensors.encode(format, rows, NUMPY[dtype]).items()}
            if container == "compressed-tensors"
            else {f"{module}.{part}": value for part, value in torchao.encode(format, rows).items()}
        )
        total.values += rows.size
        total.packed += sum(folder.add(part, value) for part, value in parts.items())
    return Written(folder.finish(config), format, layout, total.values, total.packed, total.other)


def _gguf(source: Source, out: Path, dtype: Dtype, format: Format) -> Written:
    kind = gguf_blocks.type_of(format)
    path, sizes = gguf_model.write(source.model, source.params, out, dtype, format)
    packed = _sum_of(sizes, places(source.model), kernels=True)
    other = _sum_of(sizes, places(source.model), kernels=False)
    values = sum(int(np.prod(place.shape)) for place in places(source.model).values() if place.is_kernel)
    return Written([path], format, kind.name, values, packed, other)


def _sum_of(sizes: Mapping[str, int], names: Mapping[str, Place], kernels: bool) -> int:
    return sum(sizes[name] for name, place in names.items() if place.is_kernel == kernels)


class _Total:
    values = packed = other = 0


def weights_only(source: Source) -> str | None:
    """A sentence where the run compressed its activations too, which what is written does not say; else None."""
    if not source.compressed_activations:
        return None
    return "the run compressed its activations as well; what is written holds the weights alone"
