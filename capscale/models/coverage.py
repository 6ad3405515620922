"""Which parameters of a model are compressed, which stay dense, and what each costs to store."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import Context
from capscale.models.llama import Llama, ModelConfig
from capscale.representation import Representation

DENSE_BITS = 16
"""Dense parameters are counted as bf16."""

_COMPRESSED = frozenset({"kernel"})
_DENSE = frozenset({"embedding", "head", "gain"})
_EMBEDDINGS = frozenset({"embedding", "head"})


class Parameter(NamedTuple):
    """One leaf of the parameter tree.

    Attributes:
      path: `layers/attention/query/kernel`.
      shape: with the layer axis first for scanned layers.
      format: name of its format.
      bits: storage bits per value.
      embedding: whether it is left out of N.
    """

    path: str
    shape: tuple[int, ...]
    format: str
    bits: float
    embedding: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Storage, everything counted."""
        return self.size * self.bits / 8


def parameters(model: ModelConfig, representation: Representation) -> list[Parameter]:
    """Every parameter leaf of `Llama(model, representation)`, from shapes alone.

    Raises:
      UserError: leaves that are declared neither compressed nor dense, listed by path.
    """
    init = partial(Llama(model, representation).init, ctx=Context(jnp.float32(0), None))
    tokens = jax.ShapeDtypeStruct((1, model.context), jnp.int32)
    variables = jax.eval_shape(init, jax.random.key(0), tokens)
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    found = [(tuple(key.key for key in path), leaf.shape) for path, leaf in leaves]
    uncovered = ["/".join(path) for path, _ in found if path[-1] not in _COMPRESSED | _DENSE]
    if uncovered:
        raise UserError(f"parameters declared neither compressed nor dense: {', '.join(uncovered)}")
    return [_parameter(path, shape, representation) for path, shape in found]


def _parameter(path: tuple[str, ...], shape: tuple[int, ...], representation: Representation) -> Parameter:
    fmt = representation.weights.format
    compressed = path[-1] in _COMPRESSED and not representation.weights.is_dense
    return Parameter(
        path="/".join(path),
        shape=shape,
        format=catalog.label(fmt) if compressed else "dense",
        bits=fmt.bits if compressed else DENSE_BITS,
        embedding=path[-1] in _EMBEDDINGS,
    )
