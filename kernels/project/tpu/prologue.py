"""Prologues on a TPU: what the kernel that projects rows computes of them first, ahead of their rotation.

a norm:
  x    (R, 128) tiles of a strip, read twice: once for the sum of squares of every row, once to be normalised
  sum  (R, 128) float32, then over its lanes --> (R, 1) --> inverse of the norm, (R, 128) in scratch
  gain (1, K), the same for all rows
a gated product:
  gate (R, 128), up (R, 128) --> silu(gate) * up (R, 128), in float32 rounded after every operation
  signs (1, K), the same for all rows, where the product has some
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike

from ..gated import Gate
from ..norm import Norm
from ..spec import Spec
from .rows import Tiles, run_of
from .tiles import SPILLED, SUBLANES, VMEM, Extra, Tile, memory


def unsupported(prologue: Norm | Gate, spec: Spec, width: int, dtype: DTypeLike) -> str | None:
    """Why the projection of such rows does not compute them first, or None where it does."""
    if spec.scale is not None and spec.scale.given:
        return f"numbers that are given for rows are of {prologue.name} ones"
    smallest, both = Tile(SUBLANES, SUBLANES), [extra_of(prologue, prologue.rows, coded=True)]
    both.append(backward_extra(1) if prologue.elementwise else NORM_BACKWARD)
    if max(memory(smallest, width, dtype, extra).total for extra in both) + SPILLED > VMEM:
        return f"{SUBLANES} rows of {width} values, codes and what is {prologue.name} do not fit into {VMEM >> 20} MiB"
    return None


def extra_of(prologue: Norm | Gate | None, others: int, coded: bool) -> Extra:
    """Memory that the kernel takes for a prologue with so many operands behind the rows x."""
    if prologue is None:
        return Extra(coded)
    rows = prologue.rows - 1
    return Extra(coded, rows, others - rows, tiles=0 if prologue.elementwise else 1)


def backward_extra(shared: int) -> Extra:
    """Memory that the backward kernel takes for a gated product: of gate, up, and one gradient more."""
    return Extra(rows=3, shared=shared)


NORM_BACKWARD = Extra(rows=2, shared=2)
"""Memory that the backward kernel takes for a norm: of x and of what comes past it; of the gain and its gradient."""


def shared_block(width: int) -> pl.BlockSpec:
    """Block of an operand for all rows, which every step reads."""
    return pl.BlockSpec((1, width), lambda i: (0, 0))


class Reader(NamedTuple):
    """How the kernel reads its rows: `measure(here, every)` once a strip, then `tile(here, c)`, (R, 128)."""

    measure: Callable[[Any, Tiles], None]
    tile: Callable[[Any, Any], Array]


def reader(prologue: Norm | Gate | None, x_ref: Any, others: Sequence[Any], kept: Sequence[Any]) -> Reader:
    """Reader of x and of the `others`: further rows, then operands for all; `kept`: tiles of scratch."""
    if prologue is None:
        return Reader(_nothing, lambda here, c: x_ref[here, run_of(c)])
    if isinstance(prologue, Norm):
        return _of_norm(prologue, x_ref, *others, *kept)
    return _of_gate(x_ref, *others)


def _nothing(here: Any, every: Tiles) -> None:
    """Nothing is measured of such rows."""


def _of_norm(norm: Norm, x_ref: Any, gain_ref: Any, inverse_ref: Any) -> Reader:
    def measure(here: Any, every: Tiles) -> None:
        def add(c: Any, total: Array) -> Array:
            return total + jnp.square(x_ref[here, run_of(c)].astype(jnp.float32))

        total = every.longer(add, jnp.zeros(inverse_ref.shape, jnp.float32))
        mean = jnp.sum(total, axis=1, keepdims=True) / x_ref.shape[1]
        inverse_ref[...] = jnp.broadcast_to(lax.rsqrt(mean + norm.epsilon), inverse_ref.shape)

    def tile(here: Any, c: Any) -> Array:
        x = x_ref[here, run_of(c)]
        gain = jnp.broadcast_to(gain_ref[:, run_of(c)], x.shape)
        return (x.astype(jnp.float32) * inverse_ref[...] * gain).astype(x.dtype)

    return Reader(measure, tile)


def _of_gate(gate_ref: Any, up_ref: Any, signs_ref: Any = None) -> Reader:
    def tile(here: Any, c: Any) -> Array:
        gate, up = (ref[here, run_of(c)].astype(jnp.float32) for ref in (gate_ref, up_ref))

        def rounded(x: Array) -> Array:
            return x.astype(gate_ref.dtype).astype(jnp.float32)

        product = rounded(rounded(gate * rounded(lax.logistic(gate))) * up)
        if signs_ref is not None:
            product = product * jnp.broadcast_to(signs_ref[:, run_of(c)], product.shape)
        return product.astype(gate_ref.dtype)

    return Reader(_nothing, tile)


def pulled(g: Array, at: tuple[Any, Any], gate_ref: Any, up_ref: Any, signs_ref: Any = None) -> tuple[Array, Array]:
    """Gradients of gate and up, float32, from that of a tile of their product, (R, 128), which lies `at` (here, c)."""
    here, c = at
    gate, up = (ref[here, run_of(c)].astype(jnp.float32) for ref in (gate_ref, up_ref))
    if signs_ref is not None:
        g = g * jnp.broadcast_to(signs_ref[:, run_of(c)], g.shape)
    share = lax.logistic(gate)
    silu = gate * share
    return g * up * (share + silu * (1 - share)), g * silu
