"""Decoders in the bytes of their formats, each matrix in its own: `packed.safetensors`, and `packed.json` beside it.

Of `packed.safetensors` (`capscale.formats.packing`) a tensor is one matrix of one layer, by the path that a policy
knows it by, `layers/3/mlp/up/kernel`, in rows of its inputs; all else is one tensor a parameter, and so are the arrays
of numbers that matrices are made of, `layers/mlp/up/kernel/shared`, of all layers. `packed.json` says the
shape of the model, and in which representation every path is held, rotations included.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import Array

from capscale.artifacts import check_seal, sealed
from capscale.errors import UserError
from capscale.files import read_json, write_json, writing
from capscale.formats import packing
from capscale.formats.base import Context
from capscale.formats.capabilities import Stateful, draws, learns
from capscale.formats.catalog import label
from capscale.formats.dense import Dense
from capscale.formats.packing import Packed
from capscale.models.assigned import TABLES, Held, combined, full, kernel_path, table_of
from capscale.models.config import ModelConfig
from capscale.models.initial import initial_params
from capscale.models.projected import KERNEL, LEARNED, FormatState, values_of
from capscale.policy import Frozen, Rule
from capscale.representation import DENSE, Representation, rotated_back, weight_rows

TENSORS, DESCRIPTION = "packed.safetensors", "packed.json"
VERSION = 1
REMEDY = "export the run, or the checkpoint, again"
STACK = "layers"
ALWAYS_FLOAT32 = "activations_step"
"""Learned scales of inputs, which no type of the model rounds."""


def packed_params(
    model: ModelConfig, params: Any, held: Held, context: Context, *, state: FormatState | None, dtype: str
) -> dict[str, Packed]:
    """Every parameter in the bytes of its format.

    Args:
      model, params: of a `Decoder`, master weights.
      held: representations of the weights.
      context: of the formats; `state`: of the weights' formats, by the path of a kernel.
      dtype: of what is stored as floats: dense parameters, and the values that a sparse format keeps, which are
        rounded to it before they are chosen.

    Raises:
      UserError: formats that draw noise, that do not say how they are stored, or whose groups do not divide a row.
    """
    leaves, every_layer, found = values_of(params), full(model, held), {}
    for path, leaf in leaves.items():
        name = path.split("/")[-1]
        if name == LEARNED:
            continue  # which the codes of its kernel are counted in
        if name == KERNEL:
            learned, moving = leaves.get(path.removesuffix(KERNEL) + LEARNED), (state or {}).get(path)
            for layer, own in enumerate(every_layer.of(path)):
                format = own.weights.format
                ctx = context._replace(
                    learned=learned[layer] if learned is not None and learns(format) else None,
                    state=moving[layer] if moving is not None and isinstance(format, Stateful) else None,
                )
                found[of_layer(path, layer)] = _packed(own, weight_rows(leaf[layer], own), ctx, dtype)
        elif name in TABLES and not (own := table_of(every_layer, name)).weights.is_dense:
            found[path] = _packed(own, weight_rows(leaf.T, own), context, dtype)
        else:
            as_type = "float32" if name == ALWAYS_FLOAT32 else dtype
            found[path] = packing.pack(Dense(), jnp.asarray(leaf, as_type))
    return found


def _packed(held: Representation, rows: Array, ctx: Context, dtype: str) -> Packed:
    format = held.weights.format
    if draws(format):
        raise UserError(f"{label(format)} draws its values, which are others each time; pack a format that rounds")
    if isinstance(format, packing.Storable) and format.layout(rows.shape, dtype) != format.layout(
        rows.shape, rows.dtype
    ):
        rows = rows.astype(dtype)
    return packing.pack(format, rows, ctx)


def unpacked_params(model: ModelConfig, tensors: Mapping[str, Packed], held: Held) -> Any:
    """Parameters with the values that were packed, in the basis of master weights, float32."""
    every_layer, params = full(model, held), {}
    stacks: dict[str, list[Array]] = {}
    for name, packed in tensors.items():
        stack, _, rest = name.partition("/")
        layer, _, after = rest.partition("/")
        values = jnp.asarray(packing.unpack(packed), jnp.float32)
        if stack == STACK and layer.isdecimal():
            path, own = f"{STACK}/{after}", every_layer.of(f"{STACK}/{after}")[int(layer)]
            stacks.setdefault(path, []).append(_in_basis(values, own))
        elif name in TABLES:
            _put(params, name, _in_basis(values, table_of(every_layer, name)).T)
        else:
            _put(params, name, values)
    for path, matrices in stacks.items():
        _put(params, path, jnp.stack(matrices))
    return params


def _in_basis(rows: Array, held: Representation) -> Array:
    """Rows as they were packed, (out, in), as a kernel in the basis of its masters."""
    kernel = jnp.swapaxes(rows, -1, -2)
    return kernel if held.weights.is_dense else rotated_back(kernel, held, axis=-2)


def _put(params: dict[str, Any], path: str, value: Array) -> None:
    *parents, leaf = path.split("/")
    for parent in parents:
        params = params.setdefault(parent, {})
    params[leaf] = value


def of_layer(path: str, layer: int) -> str:
    """Path of one layer's matrix, as policies have it: `layers/3/mlp/up/kernel`."""
    stack, _, rest = path.partition("/")
    return f"{stack}/{layer}/{rest}"


def rules_of_held(held: Held) -> Frozen:
    """Rules that say of every path what it is held in; the representation where all layers agree."""
    if isinstance(held, Representation):
        return held
    paths: dict[Representation, list[str]] = {}
    for layer, block in enumerate(held.layers):
        for name, own in block.projections:
            paths.setdefault(own, []).append(kernel_path(name, layer).removeprefix(f"{STACK}/"))
    rules = [Rule(name, own) for name in TABLES if (own := table_of(held, name)) != DENSE]
    return (*rules, *(Rule(f"{STACK}/({'|'.join(found)})", own) for own, found in paths.items()))


def write(directory: Path, tensors: Mapping[str, Packed], described: Mapping[str, Any]) -> list[Path]:
    """Writes both files into a new directory, the description last."""
    with writing(directory):
        packing.save(directory / TENSORS, dict(tensors))
    path = directory / DESCRIPTION
    write_json(epath.Path(path), sealed({"version": VERSION, **described}))
    return [directory / TENSORS, path]


def read(directory: Path) -> tuple[dict[str, Packed], dict[str, Any]]:
    """Tensors and description of such a directory.

    Raises:
      UserError: files that are missing, damaged, altered, or of another version.
    """
    path = directory / DESCRIPTION
    described = read_json(epath.Path(path), REMEDY)
    check_seal(epath.Path(path), described, REMEDY)
    if described.get("version") != VERSION:
        raise UserError(f"{path}: written as version {described.get('version')!r}; this capscale reads {VERSION}")
    return packing.load(directory / TENSORS), described


def check_tensors(
    directory: Path, model: ModelConfig, tensors: Mapping[str, Packed], weights: Held, inputs: Held
) -> None:
    """Raises `UserError` where the tensors are not those of the model, or are in other formats than it says."""
    held = combined(model, inputs, weights, lambda own, other: replace(own, parametrization=other.parametrization))
    shapes = values_of(jax.eval_shape(partial(initial_params, model, held), jax.random.key(0)))
    every_layer, wanted = full(model, weights), {}
    for path, leaf in shapes.items():
        if path.split("/")[-1] == KERNEL:
            for layer, own in enumerate(every_layer.of(path)):
                wanted[of_layer(path, layer)] = own.weights.format, leaf.shape[:0:-1]
        else:
            own = table_of(every_layer, path) if path in TABLES else DENSE
            wanted[path] = own.weights.format, leaf.shape
    for name in [*wanted, *tensors]:
        if name not in wanted or name not in tensors:
            raise UserError(f"{directory}: {name} is {'missing' if name in wanted else 'no tensor of it'}; {REMEDY}")
        (format, shape), found = wanted[name], tensors[name]
        if (found.format, found.shape) != (format, shape):
            told, said = (
                f"{label(each.format)} of shape {each.shape}" for each in (found, Packed(format, shape, "", {}))
            )
            raise UserError(f"{directory}: {name} is {told}, and {DESCRIPTION} says {said}; {REMEDY}")


def nbytes(tensors: Mapping[str, Packed]) -> int:
    """Bytes of all tensors, without the file's header."""
    return int(np.sum([packed.nbytes for packed in tensors.values()]))
