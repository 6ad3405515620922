"""The matrix product of linear layers whose backward products compress their operands: see `capscale.gradients`."""

from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from capscale.code_product import Codes
from capscale.errors import UserError
from capscale.formats.base import Context, Format
from capscale.formats.capabilities import draws
from capscale.formats.dense import UNCOMPRESSED
from capscale.formats.rotation import hadamard_block, random_signs
from capscale.gradients import BackwardProduct, Gradients
from capscale.kernels.hadamard import rotate
from capscale.product import product


class Factors(NamedTuple):
    """Factors that a layer multiplies, and those that its backward products take in their place."""

    x: Array
    """Inputs (..., tokens, in) as the forward product takes them."""
    w: Array
    """Weights (in, out) as the forward product takes them."""
    given_x: Array | None = None
    """Inputs before they were rounded, where the gradient of the weights asks for them; None: x itself."""
    given_w: Array | None = None
    """Weights before they were rounded, where the gradient of the inputs asks for them; None: w itself."""
    key: Array | None = None
    """PRNG key of this layer at this step, where something is drawn."""
    codes: Codes | None = None
    """Codes of x and w, which the forward product reads in place of them; None: their values."""


def compressed_product(factors: Factors, gradients: Gradients) -> Array:
    """`x w` exactly as `product`, or of their codes; backward by the products of `gradients`.

    Operands are turned and projected in float32, multiplied in the dtype of x and summed in float32. The gradients are
    those of the factors x and w: masks of estimators come behind them.

    Raises:
      UserError: no axis of tokens, a sequence or a width that groups or blocks do not divide, or no key to draw from.
    """
    _check(factors, gradients)
    return cast(Array, _product(gradients, factors))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(gradients: Gradients, factors: Factors) -> Array:
    return _multiplied(factors)


def _multiplied(factors: Factors) -> Array:
    if factors.codes is None:
        return product(factors.x, factors.w)
    return factors.codes.multiplied().astype(factors.x.dtype)


def _forward(gradients: Gradients, factors: Factors) -> tuple[Array, Factors]:
    return _multiplied(factors), factors._replace(codes=None)


def _backward(gradients: Gradients, factors: Factors, g: Array) -> tuple[Factors]:
    x, w, given_x, given_w, key, _ = factors
    of_inputs, of_weights = (None, None) if key is None else jax.random.split(key)
    other = w if given_w is None or gradients.inputs.source == "projected" else given_w
    rows_g, rows_w = _operands(gradients.inputs, g, other, of_inputs)
    into_x = lax.dot_general(
        rows_g.astype(x.dtype),
        rows_w.astype(x.dtype),
        (((g.ndim - 1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    inputs = x if given_x is None or gradients.weights.source == "projected" else given_x
    # (..., out, tokens) and (..., in, tokens): groups lie within a sequence, and sequences are summed over.
    columns_g, columns_x = _operands(
        gradients.weights, jnp.swapaxes(g, -1, -2), jnp.swapaxes(inputs, -1, -2), of_weights
    )
    summed = (*range(x.ndim - 2), x.ndim - 1)
    into_w = lax.dot_general(
        columns_x.astype(x.dtype),
        columns_g.astype(x.dtype),
        ((summed, summed), ((), ())),
        preferred_element_type=jnp.float32,
    )
    nothing = None if given_x is None else jnp.zeros_like(given_x), None if given_w is None else jnp.zeros_like(given_w)
    return (Factors(into_x.astype(x.dtype), into_w.astype(w.dtype), *nothing, cast(Array, None)),)


_product.defvjp(_forward, _backward)


def _operands(held: BackwardProduct, gradient: Array, other: Array, key: Array | None) -> tuple[Array, Array]:
    """Both operands, turned and projected along their last axis; as they are where nothing is done to them."""
    keys = [None] * 3 if key is None else list(jax.random.split(key, 3))
    signs = _signs(held, gradient.shape[-1], keys[0])

    def one(format: Format, rows: Array, key: Array | None) -> Array:
        if signs is not None:
            rows = _turned(rows.astype(jnp.float32), signs)
        if format == UNCOMPRESSED:
            return rows
        return format.project(rows.astype(jnp.float32), Context(key=key if draws(format) else None)).value

    return one(held.gradient, gradient, keys[1]), one(held.operand, other, keys[2])


def _signs(held: BackwardProduct, width: int, key: Array | None) -> Array | None:
    """Sign of every place of a block, float32; None without a rotation."""
    if held.hadamard is None:
        return None
    block = hadamard_block(width, held.hadamard)
    if held.signs is None:
        return jnp.ones(block, jnp.float32)
    if held.signs == "drawn":
        assert key is not None
        return jax.random.rademacher(key, (block,), jnp.float32)
    return jnp.asarray(random_signs(held.signs, block), jnp.float32)


def _turned(rows: Array, signs: Array) -> Array:
    """Rows times the signs of every block, then each block rotated."""
    all_signs = jnp.tile(signs, rows.shape[-1] // len(signs))
    return rotate(rows * jnp.broadcast_to(all_signs, rows.shape), len(signs), -1)


def _check(factors: Factors, gradients: Gradients) -> None:
    """Refuses by name what the backward pass could not round, at the time of the forward pass."""
    x, w = factors.x, factors.w
    if gradients.draws and factors.key is None:
        raise UserError(
            "gradients that round by chance, or whose signs are drawn, need a PRNG key: "
            "linear(..., gradients_key=jax.random.key(0)), or a train step, which has one"
        )
    if x.ndim < 2 and not gradients.weights.is_dense:
        raise UserError(f"inputs of shape {x.shape} have no axis of tokens, along which their gradients are rounded")
    tokens = x.shape[-2] if x.ndim > 1 else 1
    g = jax.ShapeDtypeStruct((*x.shape[:-1], w.shape[-1]), x.dtype)
    sides = (
        (gradients.inputs, f"gradient of the inputs, summed over {w.shape[-1]} outputs", g.shape, w.shape),
        (
            gradients.weights,
            f"gradient of the weights, summed over sequences of {tokens} tokens",
            (*g.shape[:-2], g.shape[-1], tokens),
            (*x.shape[:-2], x.shape[-1], tokens),
        ),
    )
    for held, name, *shapes in sides:
        if held.is_dense:
            continue
        rows = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        try:
            jax.eval_shape(partial(_operands, held), *rows, jax.random.key(0))
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
