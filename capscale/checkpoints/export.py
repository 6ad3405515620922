"""A decoder written for other libraries: dense, rounded, or packed in the layout of one of them."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from capscale.checkpoints import compressed_tensors, gguf_blocks, gguf_model, packed_model, torchao
from capscale.checkpoints.config_writer import config_of
from capscale.checkpoints.huggingface import NUMPY, places, rows_of
from capscale.checkpoints.rounding import under_policy
from capscale.checkpoints.source import Source, described
from capscale.checkpoints.writing import Folder, copy_tokenizer, new_directory
from capscale.errors import UserError
from capscale.formats.base import Format
from capscale.formats.capabilities import learns
from capscale.formats.catalog import label
from capscale.formats.dense import Dense
from capscale.models.assigned import TABLES, every, full, table_of
from capscale.models.projected import KERNEL
from capscale.policy import Policy
from capscale.representation import DENSE, Operand, Representation

Container = Literal["hf", "capscale", "compressed-tensors", "torchao", "gguf"]
CONTAINERS: tuple[Container, ...] = get_args(Container)
DENSE_WEIGHTS = "packs compressed weights, and these are dense; name a format by --weights, or rules by --policy"
Dtype = Literal["float32", "bfloat16", "float16"]


class Written(NamedTuple):
    """Files of an export, and what of it is packed.

    Attributes:
      files: all of them.
      formats: of the packed matrices, by the names of tensors; empty where there are none.
      layout: as the container calls it; several with commas between.
      packed_values, packed_bytes: of these matrices, scales included, and of those that are made of stored numbers,
        with the bytes of these.
      other_bytes: of all other tensors.
    """

    files: list[Path]
    formats: Mapping[str, Format]
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
    return source._replace(weights=Representation(Operand(format)), stored=None) if own.is_dense else source


def with_policy(source: Source, policy: Policy) -> Source:
    """`source` with its weights to be held as rules say.

    Raises `UserError` for a run that was trained otherwise: its weights would be rounded twice; and for what
    `capscale.checkpoints.rounding.under_policy` refuses.
    """
    found = under_policy(source, policy)
    if not all(each.weights.is_dense for each in every(source.weights)):
        raise UserError(
            f"{source.path} was trained in {source.weights_name}; leave --policy out, or give a dense run: what is "
            "rounded by rules is not what they make of its masters in training"
        )
    return found


def export(source: Source, container: Container, out: Path, dtype: Dtype | None = None) -> Written:
    """Writes a decoder into a new directory, and beside it the tokenizer that its source has, but for gguf.

    Args:
      source: the decoder, and the formats that its matrices are held in.
      container: "hf" writes their values as they are, in `dtype`; "capscale" the bytes of any format; the others their
        codes and scales, where they have a layout for the formats.
      out: a directory that is new or empty.
      dtype: of all that is not packed; that of the model's computation where it is None.

    Raises:
      UserError: a format, a rotation or a model that the container does not hold, with the nearest that it does.
    """
    name: Dtype = dtype or source.model.dtype
    if container == "capscale":
        written = _bytes(source, out, name)
    elif container == "hf":
        written = _rounded(source, out, name)
    elif container == "gguf":
        return _gguf(source, out, name, _packable(source, container))
    else:
        written = _packed_folder(source, container, out, name, _packable(source, container))
    return written._replace(files=[*written.files, *copy_tokenizer(source.path, out)])


def _bytes(source: Source, out: Path, dtype: Dtype) -> Written:
    source.check_masters()
    stored = source.stored
    if stored is None and all(each.weights.is_dense for each in every(source.weights)):
        raise UserError(f"--as capscale {DENSE_WEIGHTS}")
    params = source.params if stored is None else stored.params
    tensors = packed_model.packed_params(
        source.model, params, source.weights, source.context, state=source.state, dtype=dtype
    )
    files = packed_model.write(new_directory(out), tensors, described(source))
    packed = {name: tensor for name, tensor in tensors.items() if tensor.format != Dense()}
    values, size = sum(prod(tensor.shape) for tensor in packed.values()), packed_model.nbytes(packed)
    formats = {name: tensor.format for name, tensor in packed.items()}
    if stored is not None:
        values += stored.entries(source.model)
        size += packed_model.nbytes({name: tensor for name, tensor in tensors.items() if f"/{KERNEL}/" in name})
    return Written(files, formats, "capscale", values, size, packed_model.nbytes(tensors) - size)


def _rounded(source: Source, out: Path, dtype: Dtype) -> Written:
    config, folder, total = config_of(source.model, dtype), Folder(out), 0
    held = source.held()
    for name, place in places(source.model).items():
        value = np.ascontiguousarray(rows_of(held, place)).astype(NUMPY[dtype])
        total += value.nbytes
        folder.add(name, value)
    return Written(folder.finish(config), {}, dtype, 0, 0, total)


def _packable(source: Source, container: Container) -> dict[str, Format]:
    """Formats of the matrices that are not dense, by their names, if packed files can say all that makes their values.

    Raises `UserError` where they cannot.
    """
    source.check_masters()
    if source.stored is not None:
        raise UserError(
            f"{container} has no place for the numbers that {source.stored.names} stores in place of matrices; the "
            "nearest are --as capscale, which writes them, --as hf, which writes the matrices that they make, and "
            "--weights FORMAT, which rounds these"
        )
    of_layers, found = full(source.model, source.weights), {}
    for name, place in places(source.model).items():
        if place.layer is None:
            held = table_of(of_layers, place.path) if place.path in TABLES else DENSE
        else:
            held = of_layers.of(place.path)[place.layer] if place.is_kernel else DENSE
        format = held.weights.format
        if held.weights.is_dense:
            continue
        if held.hadamard is not None:
            raise UserError(
                f"{container} cannot hold weights in a basis that is rotated in blocks of {held.hadamard}; the "
                "nearest is --as hf, which writes their values rotated back"
            )
        if learns(format):
            raise UserError(
                f"{container} cannot hold {label(format)}: its learned steps are of levels of half a step; the nearest "
                "is --as hf, which writes the values"
            )
        if not place.is_kernel and container != "gguf":
            raise UserError(
                f"{container} keeps {place.path} as it is, and it is held in {label(format)}; leave it dense, or write "
                "--as capscale, or --as hf for its values"
            )
        found[name] = format
    if not found:
        raise UserError(f"--as {container} {DENSE_WEIGHTS}")
    return found


def _packed_folder(
    source: Source, container: Container, out: Path, dtype: Dtype, formats: Mapping[str, Format]
) -> Written:
    config, names = config_of(source.model, dtype), places(source.model)
    if container == "compressed-tensors":
        layouts = [compressed_tensors.layout_of(format).name for format in formats.values()]
        linear = [name for name, place in names.items() if place.is_kernel]
        config["quantization_config"] = compressed_tensors.config({name: formats.get(name) for name in linear})
    else:
        for format in formats.values():
            torchao.check(format)
        layouts = ["torchao"]
    folder, total = Folder(out), _Total()
    if container == "torchao":
        folder.metadata |= torchao.header({name: formats.get(name) for name in names}, dtype)
    for name, place in names.items():
        rows, format = rows_of(source.params, place), formats.get(name)
        if format is None:
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
    layout = ", ".join(dict.fromkeys(layouts))
    return Written(folder.finish(config), formats, layout, total.values, total.packed, total.other)


def _gguf(source: Source, out: Path, dtype: Dtype, formats: Mapping[str, Format]) -> Written:
    kinds = [gguf_blocks.type_of(format).name for format in formats.values()]
    path, sizes = gguf_model.write(source.model, source.params, out, dtype, formats)
    packed = sum(size for name, size in sizes.items() if name in formats)
    shapes = {name: place.shape for name, place in places(source.model).items()}
    values = sum(prod(shapes[name]) for name in formats)
    return Written([path], formats, ", ".join(dict.fromkeys(kinds)), values, packed, sum(sizes.values()) - packed)


class _Total:
    values = packed = other = 0


def weights_only(source: Source) -> str | None:
    """A sentence where the run compressed its activations too, which what is written does not say; else None."""
    if not source.compressed_activations:
        return None
    return "the run compressed its activations as well; what is written holds the weights alone"
