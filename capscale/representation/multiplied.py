"""Which product a layer takes, that of its values or that of their codes, and the codes of both operands."""

from functools import cache
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from jax import Array, lax

from capscale.coded import Coded
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context, Format
from capscale.formats.capabilities import kernel_spec, learns
from capscale.formats.catalog import label
from capscale.fused import encode_fused
from capscale.kernels import products
from capscale.kernels.config import PRODUCTS
from capscale.kernels.matmul.codes import Multiplicand, Pair, pair_of
from capscale.kernels.project import Encoded, Spec, Unsupported, multiplicand, without_codes
from capscale.representation.value import Representation, rotated_block


class Multiplied(NamedTuple):
    """A product of codes: how they are multiplied, and the specifications that make them of both operands."""

    pair: Pair
    x: Spec
    w: Spec


def multiplied(representation: Representation, width: int, rows: int) -> Multiplied | None:
    """The product of codes that a layer of `width` inputs takes for so many rows of x; None where it takes values.

    Layers of which an operand is dense always take values.

    Raises:
      UserError: a format without codes that matrix units take, where `CAPSCALE_PRODUCTS=codes` asks for them.
    """
    mode = _mode()
    if mode == "values" or representation.weights.is_dense or representation.activations.is_dense:
        return None
    found, named = codes_of(representation, width), _named(representation)
    if isinstance(found, Unsupported):
        if mode == "codes":
            raise UserError(
                f"{PRODUCTS}=codes: {found.reason}, so that {named} has no product of codes; use {PRODUCTS}=auto, "
                "which multiplies such values, or another format"
            )
        products.tell(f"{named}: values, as {found.reason}")
        return None
    if mode == "auto" and not products.faster(found.pair, width, rows, named):
        return None
    products.take(found.pair.kind)
    return found


def takes_codes() -> bool:
    """Whether any layer may take a product of codes, by `CAPSCALE_PRODUCTS`."""
    return _mode() != "values"


def _mode() -> products.Products:
    try:
        return products.mode()
    except ValueError as error:
        raise UserError(str(error)) from error


@cache
def codes_of(representation: Representation, width: int) -> Multiplied | Unsupported:
    """The product of codes of two compressed operands over `width` inputs, or why there is none."""
    specs: list[Spec] = []
    for side in ("activations", "weights"):
        format: Format = getattr(representation, side).format
        spec = _spec_of(format)
        if isinstance(spec, Unsupported):
            return Unsupported(f"{side}={label(format)}: {spec.reason}")
        specs.append(spec)
    x, w = specs
    of_x, of_w = (cast(Any, spec.grid).levels for spec in specs)
    pair = pair_of(of_x, of_w, width)
    return Unsupported(pair) if isinstance(pair, str) else Multiplied(pair, x, w)


def _spec_of(format: Format) -> Spec | Unsupported:
    """Specification of a format whose rows are codes times one scale, or why it is none."""
    if learns(format):
        return Unsupported("learned scales are multiplied as values")
    spec = kernel_spec(format)
    if isinstance(spec, Unsupported):
        return spec
    if (reason := without_codes(spec)) is not None:
        return Unsupported(reason)
    if spec.group is not None:
        return Unsupported(
            f"groups of {spec.group} inputs share a scale, each of which would take a product of its own"
        )
    return spec


def _named(representation: Representation) -> str:
    return f"{label(representation.weights.format)} x {label(representation.activations.format)}"


def codes_of_weights(
    w: Array, representation: Representation, by: Multiplied, ctx: Context = NO_CONTEXT
) -> Multiplicand:
    """Codes of `project_weights(w, representation, ctx)`, w (..., in, out); no gradient goes through."""
    encoded = _encoded(representation.weights.format, by.w, jnp.swapaxes(w, -1, -2), representation, ctx)
    return _turned(multiplicand(by.w, encoded, w.shape[-2], by.pair.w, by.pair.kind))


def codes_of_coded(coded: Coded, by: Multiplied) -> Multiplicand:
    """The same of weights that came in packed codes."""
    encoded = Encoded(coded.codes, coded.scales)
    return _turned(multiplicand(by.w, encoded, coded.width, by.pair.w, by.pair.kind))


def codes_of_activations(
    x: Array, representation: Representation, by: Multiplied, ctx: Context = NO_CONTEXT
) -> Multiplicand:
    """Codes of `project_activations(x, representation, ctx)`, x (..., in); no gradient goes through."""
    encoded = _encoded(representation.activations.format, by.x, x, representation, ctx)
    return multiplicand(by.x, encoded, x.shape[-1], by.pair.x, by.pair.kind)


def _encoded(format: Format, spec: Spec, rows: Array, representation: Representation, ctx: Context) -> Encoded:
    block = rotated_block(rows.shape[-1], representation)
    return encode_fused(format, spec, lax.stop_gradient(rows), ctx, rotation=block, signs=representation.signs)


def _turned(rows: Multiplicand) -> Multiplicand:
    """Rows (..., out, in) as `linear` has weights."""
    return Multiplicand(*(jnp.swapaxes(of, -1, -2) for of in rows))
