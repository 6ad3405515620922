"""Linear layers whose weights stay in the bytes of their format: what a trained model is served with.

    packed = pack_weights(w, representation)              # to be saved by capscale.formats.packing
    weights = load_weights(packed)                        # once, when the model is loaded
    y = packed_linear(x, weights, representation)         # bytes are decoded inside the product

Equal to `linear` up to float32 summation order, and up to what bfloat16 rounds of weights whose one scale per output is
here applied after the sum.
"""

from math import log2

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.packing import Packed, from_bytes, pack
from capscale.formats.pattern import NM
from capscale.formats.scalar import Scalar
from capscale.formats.scale_rule import Combines
from capscale.formats.stages import stages_of
from capscale.kernels.matmul import Layout, Weights, matmul
from capscale.representation import DENSE, Representation, project, rotated, weight_rows

RUN = 4  # of 2:4 sparsity


def pack_weights(w: Array, representation: Representation, ctx: Context = NO_CONTEXT) -> Packed:
    """`w` (in, out) in the bytes of its format, as rows (out, in), rotated where the representation rotates."""
    return pack(representation.weights.format, weight_rows(w, representation), ctx)


def packed_linear(x: Array, weights: Weights, representation: Representation = DENSE) -> Array:
    """y (..., out) of x (..., in), in the dtype of x: the product of `linear` with packed weights.

    Activations are compressed as the representation says. Rotated weights meet rotated inputs, which gives the
    product that `linear` gets by rotating lone weights back.
    """
    held = rotated(x, representation)
    if not representation.activations.is_dense:
        held = project(representation.activations, held, NO_CONTEXT)
    return matmul(held, weights)


def load_weights(packed: Packed) -> Weights:
    """Packed weights (out, in) as the kernels read them.

    Codes keep their bytes; those of 2:4 tensors are split by byte of eight values, and their pattern numbers become
    nibbles of two positions (4 bits in place of log2 6, for every four values). Scales become float32.
    Raises UserError for formats and shapes without a kernel: use `unpack` and `linear`.
    """
    format, scalar = packed.format, _scalar(packed)
    if len(packed.shape) != 2:
        raise UserError(f"load_weights: a tensor of shape {packed.shape}; kernels read matrices (out, in)")
    rows, width = packed.shape
    sparse = stages_of(format).composed
    group = scalar.group if isinstance(scalar.group, int) else None
    levels = np.asarray(scalar.grid.decode(jnp.arange(scalar.grid.codes, dtype=jnp.uint32)), np.float64)
    try:
        layout = Layout(int(log2(scalar.grid.codes)), tuple(levels.tolist()), width, group, sparse)
    except ValueError as error:
        raise UserError(
            f"load_weights: no kernel reads {format} of shape {packed.shape} ({error}); use unpack and linear"
        ) from error
    stored = {f.name: from_bytes(packed.fields[f.name], f) for f in scalar.scale_layout(packed.shape)}
    first, *others = scalar.load_scales(stored, packed.shape)
    for part in others:
        first = first * jnp.broadcast_to(part, first.shape)
    scale = jnp.broadcast_to(first.reshape(-1, 1), (rows, 1)) if group is None else first.reshape(rows, width // group)
    raw = np.frombuffer(packed.fields["codes"], np.uint8)
    codes = np.moveaxis(raw.reshape(rows, layout.columns, layout.byte_planes), -1, 0)
    return Weights(jnp.asarray(codes), _pattern(packed) if sparse else None, scale, layout)


def _scalar(packed: Packed) -> Scalar:
    """The grid and scales of a format that kernels read."""
    format = packed.format
    stages = stages_of(format)
    if stages.scalar is not None and stages.sparse == NM(2, RUN) and not stages.rotates_between:
        return stages.scalar
    if stages.sparse is None and stages.scalar is not None and stages.scalar.grid.codes.bit_count() == 1:
        format = stages.scalar
        if isinstance(format.group, tuple) or isinstance(format.scale, Combines):
            raise UserError(
                f"load_weights: no kernel reads {format}: scales with an offset, or of blocks that span rows, are not "
                "applied in a product; use unpack and linear"
            )
        return format
    raise UserError(
        f"load_weights: no kernel reads {format}; kernels read scalar formats of 1, 2, 4 or 8 bits, alone or after "
        "2:4 sparsity; use unpack and linear"
    )


def _pattern(packed: Packed) -> Array:
    """Positions of the two kept of every run, a nibble a run, two runs a byte."""
    sparse = stages_of(packed.format).sparse
    assert sparse is not None
    numbers = from_bytes(packed.fields["mask"], sparse.mask_layout(packed.shape))
    keep = sparse.decode_mask(numbers, packed.shape).reshape(packed.shape[0], -1, RUN).astype(bool)
    first = np.argmax(keep, axis=-1)
    second = RUN - 1 - np.argmax(keep[..., ::-1], axis=-1)
    nibbles: NDArray[np.uint8] = (first | second << 2).astype(np.uint8)
    return jnp.asarray(nibbles[:, 0::2] | nibbles[:, 1::2] << 4)
