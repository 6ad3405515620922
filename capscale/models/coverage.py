"""Which parameters of a model are compressed, which stay dense, and what each costs to store."""

import math
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import Format, granularity_of
from capscale.formats.storage import Storable, storage_bits
from capscale.models.config import ModelConfig
from capscale.models.initial import initial_params
from capscale.representation import Representation

DENSE_BITS = 16
"""Dense parameters are counted as bf16."""

_COMPRESSED = frozenset({"kernel"})
_DENSE = frozenset({"embedding", "head", "gain", "bias"})
_LEARNED = {"weights_step": 0.0, "activations_step": 32.0}
"""Bits of learnable parameters: those of weights are the scales that their kernel's bits count already."""
_EMBEDDINGS = frozenset({"embedding", "head"})


class Parameter(NamedTuple):
    """One leaf of the parameter tree.

    Attributes:
      path: `layers/attention/query/kernel`.
      shape: with the layer axis first for scanned layers.
      format: name of its format.
      bits: storage bits per value of this shape, scales, masks and indices included.
      in_n: whether it counts in N; embeddings, the head and learned scales do not.
      axis: the one of `shape` that it is compressed along, the inputs; None for what is not compressed.
      group: values on that axis, or on it and the next, that share a scale, a count or a threshold.
    """

    path: str
    shape: tuple[int, ...]
    format: str
    bits: float
    in_n: bool
    axis: int | None = None
    group: int | None = None

    @property
    def size(self) -> int:
        """Number of values of the parameter."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes of storage, everything counted."""
        return self.size * self.bits / 8


def parameters(model: ModelConfig, representation: Representation) -> list[Parameter]:
    """Every parameter leaf of a model, from shapes alone.

    Raises:
      UserError: leaves that are declared neither compressed nor dense, listed by path; a weight format that cannot
        be stored.
    """
    params = jax.eval_shape(partial(initial_params, model, representation), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = [(tuple(key.key for key in path), leaf.shape) for path, leaf in leaves]
    uncovered = ["/".join(path) for path, _ in found if path[-1] not in {*_COMPRESSED, *_DENSE, *_LEARNED}]
    if uncovered:
        raise UserError(f"parameters declared neither compressed nor dense: {', '.join(uncovered)}")
    return [_parameter(path, shape, representation) for path, shape in found]


def _parameter(path: tuple[str, ...], shape: tuple[int, ...], representation: Representation) -> Parameter:
    fmt, name = representation.weights.format, path[-1]
    label, bits, axis, group = "dense", float(DENSE_BITS), None, None
    if name in _LEARNED:
        label, bits = "learned", _LEARNED[name]
    elif name in _COMPRESSED and not representation.weights.is_dense:
        if not isinstance(fmt, Storable):
            raise UserError(f"{fmt!r} does not say how it is stored; give it `layout`, `store` and `load`")
        rows = (*shape[:-2], shape[-1], shape[-2])
        label, bits = catalog.label(cast(Format, fmt)), storage_bits(fmt, rows)
        axis, group = len(shape) - 2, _group(cast(Format, fmt), rows)
    return Parameter(
        "/".join(path), shape, label, bits, in_n=name not in {*_EMBEDDINGS, *_LEARNED}, axis=axis, group=group
    )


def _group(fmt: Format, rows: tuple[int, ...]) -> int:
    """Values of (out, in) rows that share what the format measures: its `group`, that of a part, or its granularity."""
    parts = [fmt, *(getattr(fmt, field.name) for field in fields(cast(Any, fmt)))] if is_dataclass(fmt) else [fmt]
    stated = [getattr(part, name) for name in ("group", "m") for part in parts if hasattr(part, name)]
    size = stated[0] if stated else granularity_of(fmt)
    if isinstance(size, tuple):
        return math.prod(size)
    return size if isinstance(size, int) else {"row": rows[-1], "matrix": rows[-2] * rows[-1]}[size]
