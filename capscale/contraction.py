"""Contraction: which axes of a weight array a product sums over, and the compressed product along them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context, Format
from capscale.formats.capabilities import Stateful, draws, learns
from capscale.formats.catalog import label
from capscale.formats.schedule import needs_progress
from capscale.product import product
from capscale.representation import ProjectedWeight, Representation, project_activations, project_weights, weight_rows

Axes = tuple[int, ...]
DimensionNumbers = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
"""As `jax.lax.dot_general` has them: contracted axes of both sides, and batch axes of both sides."""


class _Axes(NamedTuple):
    inputs: Axes
    outputs: Axes
    stacked: Axes


@dataclass(frozen=True)
class Contraction:
    """Which axes of a weight array a product sums over.

    Attributes:
      inputs: contracted axes, in the order in which they are laid out as the rows that a format sees.
      stacked: axes that number independent matrices, such as layers; all others are outputs.

    Example: `Contraction(0)` of a Flax kernel (in, out), `Contraction(-1)` of a PyTorch weight (out, in),
    `Contraction(inputs=(1, 2), stacked=0)` of the stacked attention outputs (layers, heads, head width, width).
    """

    inputs: int | Axes
    stacked: int | Axes = ()

    def axes(self, ndim: int) -> _Axes:
        """Contracted, output and stacked axes of an array with `ndim` axes, counted from 0.

        Raises:
          UserError: axes that the array lacks, named twice, or that leave no output axis.
        """
        named = [(each,) if isinstance(each, int) else tuple(each) for each in (self.inputs, self.stacked)]
        if not all(-ndim <= axis < ndim for axes in named for axis in axes):
            raise UserError(f"{self} names an axis that an array of {ndim} axes does not have")
        inputs, stacked = (tuple(axis % ndim for axis in axes) for axes in named)
        if not inputs or len({*inputs, *stacked}) < len(inputs) + len(stacked):
            raise UserError(f"{self} must name at least one contracted axis of {ndim}, and no axis twice")
        outputs = tuple(axis for axis in range(ndim) if axis not in {*inputs, *stacked})
        if not outputs:
            raise UserError(f"{self} leaves no output axis of an array of {ndim} axes")
        return _Axes(inputs, outputs, stacked)

    def matrix(self, w: Array) -> Array:
        """`w` as matrices (stacked..., in, out), the layout of `capscale.linear`."""
        inputs, outputs, stacked = self.axes(w.ndim)
        moved = w if (order := (*stacked, *inputs, *outputs)) == tuple(range(w.ndim)) else jnp.transpose(w, order)
        rows = prod(w.shape[axis] for axis in inputs)
        return jnp.reshape(moved, (*moved.shape[: len(stacked)], rows, -1))

    def restored(self, matrix: Array, shape: Axes) -> Array:
        """Inverse of `matrix`, for an array of this shape."""
        inputs, outputs, stacked = self.axes(len(shape))
        order = (*stacked, *inputs, *outputs)
        moved = jnp.reshape(matrix, [shape[axis] for axis in order])
        back = tuple(order.index(axis) for axis in range(len(shape)))
        return moved if back == tuple(range(len(shape))) else jnp.transpose(moved, back)


class Owner(Protocol):
    """Where a host keeps what the formats of one layer need: keys, schedules and learnable parameters."""

    @property
    def path(self) -> str:
        """Of the layer's weights."""
        ...

    @property
    def remedy(self) -> str:
        """How a key and a progress are passed in this host."""
        ...

    def progress(self) -> Array | float | None:
        """Share of training done, or None where none was passed in."""
        ...

    def key(self) -> Array | None:
        """A fresh PRNG key, or None where none was passed in."""
        ...

    def learned(self, name: str, start: Callable[[], Array]) -> Array:
        """The learnable parameters of this name; `start` makes the first ones."""
        ...


def context(format: Format, owner: Owner, name: str, start: Callable[[], Array]) -> Context:
    """Context that `format` needs of its owner at this step.

    Raises:
      UserError: a schedule without progress, or noise without a key.
    """
    progress, key = owner.progress(), owner.key() if draws(format) else None
    if progress is None and needs_progress(format):
        raise UserError(f"{owner.path}: {format!r} follows a schedule, and no progress was passed in; {owner.remedy}")
    if key is None and draws(format):
        raise UserError(f"{owner.path}: {format!r} draws random numbers, and no key was passed in; {owner.remedy}")
    learned = owner.learned(name, start) if learns(format) else None
    return Context(0.0 if progress is None else progress, key, learned)


def refuse(path: str, representation: Representation, stacked: bool = False) -> None:
    """Raises `UserError` for representations that a layer cannot hold.

    Args:
      path: of the layer, for the message.
      representation: of it.
      stacked: whether one product of the layer has several matrices (batch axes of `dot_general`).
    """
    weights, activations = representation.weights.format, representation.activations.format
    if isinstance(weights, Stateful):
        raise UserError(
            f"{path}: {weights!r} keeps a state that moves with the gradient at the compressed weights, which a layer "
            "does not see; compress the parameters instead, capscale.compress(params, ((pattern, representation, "
            "contraction), ...)), whose next_state takes that gradient"
        )
    refuse_beyond_weights(path, representation)
    if stacked and (learns(weights) or learns(activations)):
        raise UserError(f"{path}: {representation!r} learns numbers of one matrix, and this layer has several in one")


def refuse_beyond_weights(path: str, representation: Representation) -> None:
    """Raises `UserError` for what only the caller of a product could do: its backward products, a cache, parameters."""
    if representation.parametrization is not None:
        raise UserError(
            f"{path}: {representation.parametrization} stores other numbers than the matrix, and the parameters of "
            "this model are matrices; make them yourself: capscale.linear(x, ProjectedWeight(parametrization.value("
            "stored, shape)), representation)"
        )
    if representation.caches_compressed:
        raise UserError(
            f"{path}: keys={label(representation.keys.format)} and values={label(representation.values.format)} are of "
            "attention, which a linear layer does not see; leave them dense, and call "
            "capscale.representation.project_cached on the keys and values of your attention"
        )
    if not representation.gradients.is_dense:
        raise UserError(
            f"{path}: {representation.gradients!r} need a key and an axis of tokens, which this layer does not tell; "
            "leave gradients dense here, or call capscale.linear(x, w, representation, gradients_key=key)"
        )


def dot_general(
    x: Array, w: Array | ProjectedWeight, dims: DimensionNumbers, representation: Representation, owner: Owner
) -> Array:
    """`jax.lax.dot_general` with activations `x` and weights `w` held in `representation` along what is contracted.

    Equal to `capscale.linear` of the activations (..., in) and the matrix (in, out) that the dimension numbers make of
    both, bit for bit, gradients too. The result has the dtype of `x`.
    """
    (x_inputs, w_inputs), (x_batch, w_batch) = dims
    value = w.value if isinstance(w, ProjectedWeight) else w
    free = [axis for axis in range(x.ndim) if axis not in {*x_inputs, *x_batch}]
    order = (*x_batch, *free, *x_inputs)
    moved = x if order == tuple(range(x.ndim)) else jnp.transpose(x, order)
    rows = jnp.reshape(moved, (*moved.shape[: len(order) - len(x_inputs)], -1))
    contraction = Contraction(tuple(w_inputs), tuple(w_batch))
    matrix = contraction.matrix(value)
    if not isinstance(w, ProjectedWeight):
        matrix = held(matrix, representation, owner)
    multiply = product
    for _ in w_batch:
        multiply = jax.vmap(multiply)
    y = multiply(activations(rows, representation, owner), matrix)
    outputs = [value.shape[axis] for axis in contraction.axes(value.ndim).outputs]
    return jnp.reshape(y, (*y.shape[:-1], *outputs))


def held(matrix: Array, representation: Representation, owner: Owner) -> Array:
    """Weights (..., in, out) as `representation` holds them, with what their format needs from its owner."""
    fmt = representation.weights.format
    if representation.weights.is_dense:
        return project_weights(matrix, representation, NO_CONTEXT)

    def start() -> Array:
        return fmt.initial_learned(weight_rows(matrix, representation))  # pyright: ignore[reportAttributeAccessIssue]

    return project_weights(matrix, representation, context(fmt, owner, "weights_step", start))


def activations(rows: Array, representation: Representation, owner: Owner) -> Array:
    """Activations (..., in) as `representation` holds them, with what their format needs from its owner."""
    fmt = representation.activations.format
    if representation.activations.is_dense:
        return project_activations(rows, representation, NO_CONTEXT)
    if learns(fmt) and fmt.learned_shape(rows.shape):  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{owner.path}: activations={fmt!r} would learn a number per token; use group='matrix'")

    def start() -> Array:
        return fmt.initial_learned(rows)  # pyright: ignore[reportAttributeAccessIssue]

    return project_activations(rows, representation, context(fmt, owner, "activations_step", start))
