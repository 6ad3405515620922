"""The Hadamard rotation of tiles on a TPU: on the matrix unit, or by the additions of the reference.

A tile comes as (rows, 128) and leaves as such, or turned: (128, rows), which costs the matrix unit nothing.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from ... import hadamard
from ..bitplanes import LANES


def butterflies(x: Array, block: int) -> Array:
    """The Hadamard rotation of float32 `x`, (rows, 128), by the additions of `hadamard.rotate`."""
    lane = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    half = 1
    while half < block:
        lower = (lane & half) == 0
        other = jnp.where(lower, pltpu.roll(x, LANES - half, 1), pltpu.roll(x, half, 1))
        x = jnp.where(lower, x + other, other - x)
        half *= 2
    return x * jnp.float32(block**-0.5)


def signs(block: int) -> Array:
    """(128, 128) block-diagonal ±1 matrix of the rotation, bfloat16; symmetric."""
    return hadamard.signs(block, *(lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1)))


PIECES = 3


def pieces(x: Array, exact_in_bfloat16: bool) -> list[Array]:
    """Numbers of 8 significant bits that add up to a float32; one for what was bfloat16."""
    found = []
    for _ in range(1 if exact_in_bfloat16 else PIECES):
        found.append(x.astype(jnp.bfloat16))
        x = x - found[-1].astype(jnp.float32)
    return found


RotateBy = Literal["product", "butterflies"]
"""On the matrix unit, or by the reference's additions, bit for bit."""


class Rotation(NamedTuple):
    """How tiles are rotated, and the matrix for it.

    A product with ±1 is exact, so that only the order of the additions differs from `butterflies`. A NaN or an infinity
    makes NaN of all 128 values, also those of other blocks, which it meets with a factor of 0.
    """

    block: int | None
    by: RotateBy
    dtype: DTypeLike

    @classmethod
    def of(cls, block: int | None, dtype: DTypeLike, by: RotateBy | None, interpret: bool) -> "Rotation":
        """`by` None: butterflies where interpreted, else the product. Raises ValueError for what is neither."""
        by = ("butterflies" if interpret else "product") if by is None else by
        if by not in get_args(RotateBy):
            raise ValueError(f"rotate_by={by!r}: use {' or '.join(get_args(RotateBy))}")
        return cls(block, by, dtype)

    @property
    def _matrix(self) -> bool:
        return self.block is not None and self.by == "product"

    @property
    def operations(self) -> int:
        """Operations of the matrix unit that rotate one value."""
        return 2 * LANES * (1 if self.dtype == jnp.bfloat16 else PIECES) if self._matrix else 0

    @property
    def specs(self) -> list[pl.BlockSpec]:
        """Block specifications of the operands."""
        return [pl.BlockSpec((LANES, LANES), lambda i: (0, 0))] if self._matrix else []

    @property
    def operands(self) -> list[Array]:
        """The matrix, where it is a product."""
        return [signs(self.block)] if self.block and self._matrix else []

    def __call__(self, x: Array, matrix: list, turn: bool = False) -> Array:
        """Tile (rows, 128), rotated and rounded to the dtype of the rows, float32; (128, rows) to `turn` it."""
        if self.block is None:
            return (x.T if turn else x).astype(jnp.float32)
        full = x.astype(jnp.float32)
        if not self._matrix:
            y = butterflies(full, self.block)
            y = y.T if turn else y
        else:
            # The matrix is symmetric: H x^T is the transpose of x H.
            sides = (lambda p: (matrix[0][...], p)) if turn else (lambda p: (p, matrix[0][...]))
            contract = (((1,), (1 if turn else 0,)), ((), ()))
            products = [
                lax.dot_general(*sides(p), contract, preferred_element_type=jnp.float32)
                for p in pieces(full, self.dtype == jnp.bfloat16)
            ]
            total = products[0]
            for product in products[1:]:
                total = total + product
            y = total * jnp.float32(self.block**-0.5)
        return y.astype(self.dtype).astype(jnp.float32)
