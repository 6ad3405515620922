"""Weights in the codes of their format, which devices send to each other in place of values, and decode where they
multiply.

A code has a few bits, a value 16 or 32. Decoded weights are the projected ones, bit for bit, but that a
NaN makes all of its group NaN.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from capscale.formats.rotation import turned_back
from capscale.kernels.project.codes import Encoded, decode
from capscale.kernels.project.spec import Spec


class Turned(NamedTuple):
    """The rotation that decoded weights are turned back by: its block, and the seed of its signs."""

    block: int
    signs: int | None


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "scales"], meta_fields=["spec", "width", "turned"])
@dataclass(frozen=True)
class Coded:
    """Weights (..., in, out) as rows (..., out, in) of codes.

    Attributes:
      codes: uint8 (..., out, W), as `capscale.kernels.project.bitplanes` lays them out.
      scales: float32 (..., out, groups).
      spec: of the projection that made them.
      width: inputs, the values of a row.
      turned: where values leave the basis of their codes; None where products are taken in it.
    """

    codes: Array
    scales: Array
    spec: Spec
    width: int
    turned: Turned | None

    def value(self) -> Array:
        """The projected weights, float32 (..., in, out)."""
        rows = decode(self.spec, Encoded(self.codes, self.scales), self.width, jnp.float32)
        w = jnp.swapaxes(rows, -1, -2)
        return w if self.turned is None else turned_back(w, self.turned.block, self.turned.signs, -2)


@jax.custom_vjp
def decoded(w: Array, coded: Coded) -> Array:
    """`coded.value()`, with the gradient that `w`, the same values on other devices, gets; `w` is not read."""
    return coded.value().astype(w.dtype)


def _forward(w: Array, coded: Coded) -> tuple[Array, None]:
    return decoded(w, coded), None


def _backward(_: None, g: Array) -> tuple[Array, None]:
    return g, None


decoded.defvjp(_forward, _backward)
