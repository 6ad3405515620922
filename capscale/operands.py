"""Operand: one side of a matrix product, and its projection with the gradient of its estimator."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimator_names import estimator_name, find_estimator, split_name
from capscale.estimators import STRAIGHT_THROUGH, Estimator
from capscale.formats.base import Context, Format, per_row
from capscale.formats.capabilities import HasLearnedScale
from capscale.formats.catalog import find, label
from capscale.formats.dense import UNCOMPRESSED
from capscale.masks import Pulls, checked_mask, masked


@dataclass(frozen=True)
class Operand:
    """One side of a matrix product: its format forward, its estimator backward.

    `estimator`: None for the default one, which a `Representation` fills in, as it depends on the rotation.
    """

    format: Format = UNCOMPRESSED
    estimator: Estimator | None = None

    @property
    def is_dense(self) -> bool:
        """True where nothing is compressed."""
        return self.format == UNCOMPRESSED

    def backward(self, rotated: bool = False) -> Estimator:
        """The estimator: the one given, or the default in a basis that is rotated or not."""
        return default_estimator(self.format, rotated) if self.estimator is None else self.estimator

    def name(self, rotated: bool) -> str:
        """Text that `operand` reads: `int4`, with the estimator where it is not the default, `top50 [fw]`."""
        usual = self.backward(rotated) == default_estimator(self.format, rotated)
        return label(self.format) if usual else f"{label(self.format)} [{estimator_name(self.backward(rotated))}]"


DENSE_OPERAND = Operand(estimator=STRAIGHT_THROUGH)


def operand(name: str, estimator: Estimator | None = None, per_token: bool = False) -> Operand:
    """Operand of a named format (`capscale.formats.catalog`) and estimator (`capscale.estimator_names`).

    Args:
      name: `int4`, or with an estimator in brackets, `top50 [fw]`.
      estimator: the estimator, where it is not in the name; the default of the format where neither gives one.
      per_token: the row-by-row variant, which activations need.

    Raises:
      UserError: names that are unknown, or two estimators at once.

    Example: `operand("top50 [fw]")`, `operand("int1 [clip 1.3]")`, `operand("top50", per_token=True)`.
    """
    format_name, estimator_text = split_name(name)
    if estimator_text and estimator is not None:
        raise UserError(f"operand {name!r} names an estimator, and estimator={estimator!r} another; give one of them")
    format = per_row(find(format_name)) if per_token else find(format_name)
    return Operand(format, find_estimator(estimator_text) if estimator_text else estimator)


class _Residuals(NamedTuple):
    """For the backward pass: a mask, or what `Pulls` asks for; for learnable parameters the value's slope."""

    mask: Array | None
    dvalue_dscale: Array | None
    learned: Array | None
    own: Any = None


def project(operand: Operand, x: Array, ctx: Context, tokens: bool = False) -> Array:
    """Forward exactly `operand.format.project(x).value`; backward `mask * g`, the mask being the estimator's.

    An estimator that is `Pulls` has a gradient of its own in place of that.

    The gradient of a learned number, `ctx.learned`, is the sum of `dvalue_dscale * g` over the values that it scales,
    times the format's factor for a tensor of this shape. With `tokens` it is that for one row: how many there are at
    once depends on micro-batches and devices (LSQ too counts the features of a layer, not those of a batch).
    """
    return cast(Array, _project(operand, tokens, x, ctx))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _project(operand: Operand, tokens: bool, x: Array, ctx: Context) -> Array:
    return operand.format.project(x, ctx).value


def _forward(operand: Operand, tokens: bool, x: Array, ctx: Context) -> tuple[Array, _Residuals]:
    projection, estimator = operand.format.project(x, ctx), operand.backward()
    full, learned = x.astype(jnp.float32), ctx.learned
    own = estimator.residuals(full, projection) if isinstance(estimator, Pulls) else None
    dvalue_dscale = None if learned is None else projection.dvalue_dscale
    mask = checked_mask(estimator(full, projection), estimator)
    return projection.value, _Residuals(mask, dvalue_dscale, learned, own)


def _backward(operand: Operand, tokens: bool, residuals: _Residuals, g: Array) -> tuple[Array, Context | None]:
    mask, dvalue_dscale, learned, own = residuals
    estimator = operand.backward()
    into_x = estimator.pull(own, g) if isinstance(estimator, Pulls) else masked(mask, g)
    if learned is None:
        return into_x, None
    format = operand.format
    assert isinstance(format, HasLearnedScale)
    assert dvalue_dscale is not None
    _, pull = jax.vjp(lambda numbers: format.expand_learned(numbers, g.shape), learned)
    (into_learned,) = pull(dvalue_dscale * g.astype(dvalue_dscale.dtype))
    into_learned = into_learned * format.learned_gain(g.shape[-1:] if tokens else g.shape)
    return into_x, Context(progress=cast(Array, None), learned=into_learned)


_project.defvjp(_forward, _backward)
