"""Which parameters of a model are compressed, which stay dense, and what each costs to store."""

import math
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import Format, granularity_of
from capscale.formats.capabilities import learns
from capscale.formats.storage import Storable, storage_bits
from capscale.models.assigned import TABLES, Assigned, Held, assigned, full, runs
from capscale.models.config import ModelConfig, Projection
from capscale.models.initial import initial_params
from capscale.operands import Operand
from capscale.policy import Policy
from capscale.representation import DENSE, Representation

DENSE_BITS = 16
"""Dense parameters are counted as bf16."""

_COMPRESSED = frozenset({"kernel"})
_DENSE = frozenset({"embedding", "head", "gain", "bias"})
_LEARNED = {"weights_step": 0.0, "activations_step": 32.0}
"""Bits of learnable parameters: those of weights are the scales that their kernel's bits count already."""
_EMBEDDINGS = frozenset(TABLES)


class Parameter(NamedTuple):
    """One leaf of the parameter tree.

    Attributes:
      path: `layers/attention/query/kernel`.
      shape: with the layer axis first for scanned layers.
      format: name of its format.
      bits: storage bits per value of this shape, scales, masks and indices included; of a parametrization those of
        its stored numbers, as dense ones are counted.
      in_n: whether it counts in N; embeddings, the head and learned scales do not.
      axis: the one of `shape` that it is compressed along, the inputs; None for what is not compressed.
      group: values on that axis, or on it and the next, that share a scale, a count or a threshold.
      held: its representation, where it is compressed or its inputs are.
    """

    path: str
    shape: tuple[int, ...]
    format: str
    bits: float
    in_n: bool
    axis: int | None = None
    group: int | None = None
    held: Representation = DENSE

    @property
    def size(self) -> int:
        """Number of values of the parameter."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes of storage, everything counted."""
        return self.size * self.bits / 8


def parameters(model: ModelConfig, policy: Policy) -> list[Parameter]:
    """Every parameter leaf of a model, from shapes alone; kernels by runs of layers, `layers/1-4/mlp/up/kernel`.

    Under one representation for all layers a kernel is one leaf, `layers/mlp/up/kernel`.

    Raises:
      UserError: leaves that are declared neither compressed nor dense, listed by path; a weight format that cannot
        be stored; what `assigned` refuses.
    """
    representation = assigned(model, policy)
    params = jax.eval_shape(partial(initial_params, model, representation), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = _matrices([(tuple(key.key for key in path), leaf.shape) for path, leaf in leaves], model)
    uncovered = ["/".join(path) for path, _ in found if path[-1] not in {*_COMPRESSED, *_DENSE, *_LEARNED}]
    if uncovered:
        raise UserError(f"parameters declared neither compressed nor dense: {', '.join(uncovered)}")
    if isinstance(representation, Representation):
        own = {path: DENSE if path[-1] in TABLES else representation for path, _ in found}
        return [_parameter(path, shape, own[path]) for path, shape in found]
    return [leaf for path, shape in found for leaf in _by_run(path, shape, representation)]


def _matrices(found: list[tuple[tuple[str, ...], tuple[int, ...]]], model: ModelConfig) -> list:
    """Leaves with one matrix in place of the stored arrays of each kernel, by its shape."""
    kept = {}
    for path, shape in found:
        inside = next((place for place, name in enumerate(path[:-1]) if name in _COMPRESSED), None)
        if inside is None:
            kept[path] = shape
        else:
            kept[path[: inside + 1]] = (model.layers, *model.projections[cast(Projection, path[inside - 1])])
    return list(kept.items())


def _by_run(path: tuple[str, ...], shape: tuple[int, ...], held: Assigned) -> list[Parameter]:
    """A leaf as leaves of the layers that are held alike, learned scales of those alone that learn them."""
    name = path[-1]
    if name in TABLES:
        (own,) = held.of(name)
        return [_parameter(path, shape, own)]
    if name not in {*_COMPRESSED, *_LEARNED}:
        return [_parameter(path, shape, DENSE)]
    leaves = []
    for first, stop, own in runs(held.of("/".join(path))):
        side = own.activations if name == "activations_step" else own.weights
        if name in _COMPRESSED or learns(side.format):
            layers = str(first) if stop == first + 1 else f"{first}-{stop - 1}"
            leaves.append(_parameter((path[0], layers, *path[1:]), (stop - first, *shape[1:]), own))
    return leaves


def _parameter(path: tuple[str, ...], shape: tuple[int, ...], representation: Representation) -> Parameter:
    fmt, name = representation.weights.format, path[-1]
    table = name in TABLES and not representation.weights.is_dense
    label, bits, axis, group = "dense", float(DENSE_BITS), None, None
    if name in _LEARNED:
        label, bits = "learned", _LEARNED[name]
    elif name in _COMPRESSED and (stored := representation.parametrization) is not None:
        label = representation.weights_label
        bits = DENSE_BITS * stored.stored_numbers((shape[-2], shape[-1])) / math.prod(shape[-2:])
    elif (name in _COMPRESSED or table) and not representation.weights.is_dense:
        if not isinstance(fmt, Storable):
            raise UserError(f"{fmt!r} does not say how it is stored; give it `layout`, `store` and `load`")
        rows = shape if table else (*shape[:-2], shape[-1], shape[-2])
        label, bits = catalog.label(cast(Format, fmt)), storage_bits(fmt, rows)
        axis, group = len(shape) - (1 if table else 2), _group(cast(Format, fmt), rows)
    held = representation if name in _COMPRESSED or table else DENSE
    in_n = name not in {*_EMBEDDINGS, *_LEARNED}
    return Parameter("/".join(path), shape, label, bits, in_n=in_n, axis=axis, group=group, held=held)


def cache_bytes(model: ModelConfig, held: Held) -> float:
    """Bytes of the keys and values of one token in all layers, scales included; dense ones are bf16.

    Raises:
      UserError: a format that cannot be stored.
    """
    values = model.keys_and_values * model.features_per_head
    operands = [(block.of("key").keys, block.of("value").values) for block in full(model, held).layers]
    return sum(values * _cache_bits(operand, model) for of_layer in operands for operand in of_layer) / 8


def _cache_bits(operand: Operand, model: ModelConfig) -> float:
    """Bits of a value of keys or values, which lie in rows of one head and token."""
    if operand.is_dense:
        return DENSE_BITS
    if not isinstance(operand.format, Storable):
        raise UserError(f"{operand.format!r} does not say how it is stored; give it `layout`, `store` and `load`")
    return storage_bits(operand.format, (1, model.features_per_head))


def _group(fmt: Format, rows: tuple[int, ...]) -> int:
    """Values of (out, in) rows that share what the format measures: its `group`, that of a part, or its granularity."""
    parts = [fmt, *(getattr(fmt, field.name) for field in fields(cast(Any, fmt)))] if is_dataclass(fmt) else [fmt]
    stated = [getattr(part, name) for name in ("group", "m") for part in parts if hasattr(part, name)]
    size = stated[0] if stated else granularity_of(fmt)
    if isinstance(size, tuple):
        return math.prod(size)
    return size if isinstance(size, int) else {"row": rows[-1], "matrix": rows[-2] * rows[-1]}[size]
