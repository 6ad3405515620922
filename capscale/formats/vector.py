"""Vector quantization: runs of d neighbours to the nearest of n codewords (HIGGS grids, arXiv 2411.17525)."""

from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from math import log2, prod
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike
from numpy.typing import NDArray

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels.eager import one_program
from capscale.kernels.project import normalised, reciprocal
from capscale.kernels.rounding import rounded_to

from .base import Context, Projection, Scope, rounded, to_float32
from .levels import TERNARY
from .scalar import Scalar
from .scale import Rms
from .storage import Codes, Field, Shape

AT_ONCE = 32  # codewords in one pass over the vectors, between which the best stays in registers
SIGNIFICANT = 12  # bits of a codeword's coordinates: their products with 12 bits of a float32 are exact


@cache
def codebook(dimension: int, size: int) -> NDArray[np.float32]:
    """The shipped MSE-optimal codebook for N(0, I), (size, dimension); scripts/make_codebooks.py computes it."""
    folder = files("capscale.formats") / "data"
    path = folder / f"gaussian-d{dimension}-n{size}.npy"
    if not path.is_file():
        shipped = sorted(
            p.name.removeprefix("gaussian-").removesuffix(".npy") for p in folder.iterdir() if "npy" in p.name
        )
        raise UserError(
            f"no codebook of {size} codewords in {dimension} dimensions; shipped: {', '.join(shipped)}; "
            "scripts/make_codebooks.py computes others"
        )
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


@dataclass(frozen=True)
class Vector:
    """Runs of `dimension` neighbours to the nearest of `codewords` points of a Gaussian codebook, scaled by the RMS.

    `group`: what shares an RMS, as in `Scalar`.
    """

    dimension: int
    codewords: int
    group: int | Literal["row", "matrix"] = "row"

    def __post_init__(self) -> None:
        check_whole(self, "dimension", "codewords", least=1)
        codebook(self.dimension, self.codewords)
        if isinstance(self.group, int) and self.group % self.dimension:
            raise UserError(
                f"Vector(dimension={self.dimension}, group={self.group}): the dimension must divide the group"
            )
        Scalar(TERNARY, Rms(1.0), self.group)  # says what a group may be

    @property
    def scaling(self) -> Scalar:
        """A scalar format whose one level is the RMS itself: the measure and the storage of the scales."""
        return Scalar(TERNARY, Rms(1.0), self.group)

    @property
    def bits(self) -> float:
        """A code a vector, plus a scale's share of its group."""
        scaling = self.scaling
        return log2(self.codewords) / self.dimension + scaling.bits - log2(scaling.grid.codes)

    @property
    def scope(self) -> Scope:
        """As the scales."""
        return self.scaling.scope

    def per_row(self) -> "Vector":
        """One RMS per row where one served the matrix."""
        return Vector(self.dimension, self.codewords, "row" if self.group == "matrix" else self.group)

    def _vectors(self, x: Array) -> Array:
        if x.shape[-1] % self.dimension:
            raise UserError(f"vectors of {self.dimension} need a width that it divides, not {x.shape[-1]}")
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.dimension, self.dimension)

    def _scale(self, x: Array, ctx: Context) -> tuple[tuple[Array, ...], Array]:
        parts = self.scaling.measure(x, ctx)
        ones = jnp.broadcast_to(parts[0], self.scaling.groups.split_shape(x.shape))
        return parts, self._vectors(self.scaling.groups.join(ones, x.shape))

    def _normal(self, x: Array, scale: Array) -> Array:
        return normalised(self._vectors(to_float32(x, "Vector")), scale)

    @one_program(0)
    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest codeword of each vector; `radius` is the vector's norm over that of the outermost codeword."""
        _, scale = self._scale(x, ctx)
        normal = self._normal(x, scale)
        words = jnp.asarray(codebook(self.dimension, self.codewords))
        chosen = words[_nearest(normal, words)]
        outermost = float(np.max(np.linalg.norm(codebook(self.dimension, self.codewords), axis=1)))
        norm = jnp.sqrt(jnp.sum(jnp.square(normal), axis=-1, keepdims=True))
        radius = jnp.broadcast_to(norm * reciprocal(outermost), normal.shape)
        value = jnp.where(jnp.isfinite(normal), rounded(chosen * scale), normal)
        return Projection(value=rounded_to(value.reshape(x.shape), x.dtype), radius=radius.reshape(x.shape))

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """A code a vector, and the scales."""
        return Field("codes", prod(shape) // self.dimension, self.codewords), *self.scaling.scale_layout(shape)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes and scales."""
        index, parts = self._coded(x, ctx)
        return {"codes": np.asarray(index, np.uint32).reshape(-1), **self.scaling.store_scales(parts)}

    @partial(jax.jit, static_argnums=0)
    def _coded(self, x: Array, ctx: Context) -> tuple[Array, tuple[Array, ...]]:
        parts, scale = self._scale(x, ctx)
        return _nearest(self._normal(x, scale), jnp.asarray(codebook(self.dimension, self.codewords))), parts

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Codewords times scales."""
        parts = self.scaling.load_scales(codes, shape)
        split = jnp.broadcast_to(parts[0], self.scaling.groups.split_shape(shape))
        words = jnp.asarray(codebook(self.dimension, self.codewords)[codes["codes"]]).reshape(shape)
        return (words * self.scaling.groups.join(split, shape)).astype(dtype)


def _nearest(x: Array, words: Array) -> Array:
    """Index of the codeword nearest to each vector of the last axis, the first of equals.

    Maximises `x c - |c|^2 / 2` over codewords, one at a time. x is taken in two pieces of 12 significant bits,
    whose products with a coordinate are exact, so that fused and separate multiply-adds agree and every compilation
    picks the same codeword.
    """
    high = lax.bitcast_convert_type(
        lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(-(1 << (24 - SIGNIFICANT))), jnp.float32
    )
    pieces = (high, x - high)
    halves = jnp.sum(jnp.square(words), axis=-1) / 2

    def better(best: tuple[Array, Array], word: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        score, index = best
        candidate, half, number = word
        total = jnp.zeros_like(score) - half
        for axis in range(x.shape[-1]):
            for piece in pieces:
                total = total + piece[..., axis] * candidate[axis]
        win = total > score
        return (jnp.where(win, total, score), jnp.where(win, number, index)), None

    lead = jnp.full_like(x[..., 0], -jnp.inf)
    start = (lead, jnp.zeros(lead.shape, jnp.int32))
    count = words.shape[0]
    (_, index), _ = lax.scan(better, start, (words, halves, jnp.arange(count)), unroll=min(AT_ONCE, count))
    return index
