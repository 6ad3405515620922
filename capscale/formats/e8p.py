"""E8P: 2^16 points of the E8 lattice, moved by a quarter, for runs of eight values (QuIP#, arXiv 2402.04396).

A point is one of 256 vectors of halves of odd numbers, with signs whose number of minuses makes the sum even, and a
quarter added to all coordinates or taken from them: 8 + 7 + 1 bits.
"""

from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike
from numpy.typing import NDArray

from capscale.checks import check_real
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.project import rounded
from capscale.kernels.project.scales import normalised
from capscale.kernels.project.spec import closeness, exact_halves

from .base import Projection, in_dtype, to_float32
from .levels import TERNARY
from .scalar import Parts, Scalar
from .scale import Rms
from .vector_rounding import VectorRounding

DIMENSION, CODES = 8, 2**16
STEP = 1 / 1.03
"""Units of the lattice in an RMS: QuIP# scales values by 1.03 for this codebook (`_E8P_SCALE`)."""
MOST = 10  # squared norm of the 227 vectors of the ball
PADDING = "123 023 013 012 367 357 347 356 346 345 267 257 247 256 246 245 167 157 147 156 146 045 067 057 047 056 046 "
PADDING += "014 237"  # where three coordinates are 1/2 and five 3/2: the 29 of the sphere of 12 that QuIP# takes


@cache
def magnitudes() -> NDArray[np.float32]:
    """The 256 vectors of positive coordinates, (256, 8): those of the ball, then the 29."""
    ball = [s for s in product((0.5, 1.5, 2.5), repeat=DIMENSION) if sum(x * x for x in s) <= MOST]
    padding = [[0.5 if str(i) in halves else 1.5 for i in range(DIMENSION)] for halves in PADDING.split()]
    return np.array([*ball, *padding], np.float32)


class _Point(NamedTuple):
    """A point for every run, (..., 8) and (...,)."""

    row: Array
    """Of the vector of magnitudes, int32."""
    minus: Array
    """Boolean, for every coordinate."""
    down: Array
    """Boolean: whether a quarter is taken, in place of added."""


@dataclass(frozen=True)
class E8P(VectorRounding):
    """Runs of eight neighbours to the nearest of the 2^16 points, in units of `step` times the RMS.

    `group`: what shares an RMS, as in `Scalar`. Codes are numbered otherwise than in checkpoints.

    Example: `E8P()` has 2 bits a value and an error of 0.0911 on rows of 1024 normal values.
    """

    step: float = STEP
    group: int | Literal["row", "matrix"] = "row"

    def __post_init__(self) -> None:
        check_real(self, "step", above=0)
        if isinstance(self.group, int) and self.group % DIMENSION:
            raise UserError(f"E8P(group={self.group}): a group holds whole runs of {DIMENSION}")
        Scalar(TERNARY, Rms(self.step), self.group)  # says what a group may be

    @property
    def scaling(self) -> Scalar:
        """A scalar format whose one level is a unit of the lattice: the measure and the storage of the scales."""
        return Scalar(TERNARY, Rms(self.step), self.group)

    @property
    def run(self) -> int:
        """Neighbours of a point."""
        return DIMENSION

    @property
    def codes(self) -> int:
        """Points, of which a code names one."""
        return CODES

    def _normal(self, x: Array, scale: Array) -> Array:
        """Runs in units of the lattice, (..., runs, 8)."""
        return normalised(to_float32(x, "E8P"), scale).reshape(*x.shape[:-1], x.shape[-1] // DIMENSION, DIMENSION)

    @jit_inline(0)
    def project_by(self, parts: Parts, x: Array, keep: Array | None = None) -> Projection:
        """Nearest point of each run at given scales; `step` is the distance of neighbours in one coordinate.

        `keep`: boolean, the same for all values of a run; the others are zero.
        """
        scale = self._scale(parts, x.shape)
        normal = self._normal(x, scale)
        value = rounded(_coordinates(_nearest(normal)).reshape(x.shape) * scale)
        value = in_dtype(jnp.where(jnp.isfinite(normal.reshape(x.shape)), value, jnp.nan), x.dtype)
        if keep is not None:
            value = jnp.where(keep, value, jnp.zeros_like(value))
        return Projection(value, step=scale, keep=keep)

    def codes_of(self, x: Array, parts: Parts) -> Array:
        """Code of every run, uint32 (..., K / 8)."""
        return _encode(_nearest(self._normal(x, self._scale(parts, x.shape))))

    @partial(jax.jit, static_argnums=(0, 3))
    def values_of(self, codes: Array, parts: Parts, dtype: DTypeLike) -> Array:
        """Points times scales, (..., K): inverse of `codes_of`."""
        shape = (*codes.shape[:-1], codes.shape[-1] * DIMENSION)
        return in_dtype(rounded(_coordinates(_decode(codes)).reshape(shape) * self._scale(parts, shape)), dtype)


def _nearest(u: Array) -> _Point:
    """The nearest point of every run (..., 8), the first of equals.

    Under a quarter t, with y = u - t, the best signs of magnitudes s are those of y; where their number is of the wrong
    parity, one of them turns, that of least |y| s. What is compared is `|y| s - |s|^2 / 2 + t sum(u)`, by products that
    are exact.
    """
    columns = [u[..., i] for i in range(DIMENSION)]
    total = columns[0]
    for column in columns[1:]:
        total = total + column
    away = [[jnp.abs(column - t) for column in columns] for t in (0.25, -0.25)]
    halves = [[exact_halves(x) for x in side] for side in away]
    odd = [_odd(jnp.stack([column < t for column in columns], axis=-1)) for t in (0.25, -0.25)]
    table = magnitudes()
    rows = (
        jnp.asarray(table),
        jnp.asarray(np.square(table).sum(axis=1) / 2),
        jnp.asarray(_parity(table)),
        jnp.arange(len(table), dtype=jnp.int32),
    )

    def better(best: tuple[Array, Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array, Array], None]:
        s, half, parity, number = row
        for down, quarter in ((False, 0.25), (True, -0.25)):
            side = int(down)
            score = closeness(halves[side], list(s), half)
            least = away[side][0] * s[0]
            for i in range(1, DIMENSION):
                least = jnp.minimum(least, away[side][i] * s[i])
            score = score - jnp.where(odd[side] != parity, 2.0 * least, 0.0) + quarter * total
            win = score > best[0]
            best = jnp.where(win, score, best[0]), jnp.where(win, number, best[1]), jnp.where(win, down, best[2])
        return best, None

    lead = jnp.full_like(total, -jnp.inf)
    start = lead, jnp.zeros_like(lead, jnp.int32), jnp.zeros_like(lead, jnp.bool)
    (_, index, down), _ = lax.scan(better, start, rows)
    y = u - jnp.where(down, -0.25, 0.25)[..., None]
    minus = y < 0
    cost = jnp.abs(y) * rows[0][index]
    wrong = _odd(minus) != rows[2][index]
    turned = wrong[..., None] & (_places(cost) == jnp.argmin(cost, axis=-1, keepdims=True).astype(jnp.int32))
    return _Point(index, minus != turned, down)


def _places(x: Array) -> Array:
    """Place of every entry in the last axis, int32."""
    return lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def _parity(table: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether an odd number of minuses makes the sum of each vector even."""
    return table.sum(axis=-1) % 2 == 1


def _odd(minus: Array) -> Array:
    """Whether the number of minuses of the last axis is odd."""
    return jnp.sum(minus.astype(jnp.int32), axis=-1, dtype=jnp.int32) % 2 == 1


def _coordinates(point: _Point) -> Array:
    """The points, in units of the lattice."""
    s = jnp.asarray(magnitudes())[point.row]
    return jnp.where(point.minus, -s, s) + jnp.where(point.down, -0.25, 0.25)[..., None]


def _encode(point: _Point) -> Array:
    """Index, the first seven signs, the quarter, from the highest bit down."""
    first = point.minus[..., :-1].astype(jnp.int32)
    signs = jnp.sum(lax.shift_left(first, DIMENSION - 1 - _places(first)), axis=-1, dtype=jnp.int32)
    return (point.row * 256 + signs + point.down.astype(jnp.int32)).astype(jnp.uint32)


def _decode(codes: Array) -> _Point:
    """Points of the codes, the inverse of `_encode`."""
    code = codes.astype(jnp.int32)
    index = lax.shift_right_logical(code, jnp.int32(8))
    spread = jnp.broadcast_to(code[..., None], (*code.shape, DIMENSION - 1))
    first = (lax.shift_right_logical(spread, DIMENSION - 1 - _places(spread)) & 1) == 1
    last = _odd(first) != jnp.asarray(_parity(magnitudes()))[index]
    return _Point(index, jnp.concatenate([first, last[..., None]], axis=-1), (code & 1) == 1)
