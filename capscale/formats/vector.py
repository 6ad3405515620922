"""Vector quantization: runs of d neighbours to the nearest of n codewords (HIGGS grids, arXiv 2411.17525)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from numpy.typing import ArrayLike, NDArray

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.project import Codebook, Spec, Unsupported, code_of_vectors, on_codebook

from .base import Context, Projection, in_dtype, to_float32
from .levels import TERNARY
from .points import Points, check_points, rounded_points
from .scalar import Parts, Scalar
from .scale import Rms
from .vector_rounding import VectorRounding


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


@cache
def _own_codebook(points: Points) -> NDArray[np.float32]:
    return np.asarray(points, np.float32)


@dataclass(frozen=True)
class Vector(VectorRounding):
    """Runs of `dimension` neighbours to the nearest of `codewords` points of a Gaussian codebook, scaled by the RMS.

    `group`: what shares an RMS, as in `Scalar`. `points`: a codebook of one's own, in units of the RMS (`Vector.of`).

    Example: `Vector(2, 16)`, or `Vector.of([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])`.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = {"points": None}

    dimension: int
    codewords: int
    group: int | Literal["row", "matrix"] = "row"
    points: Points | None = None

    def __post_init__(self) -> None:
        check_whole(self, "dimension", "codewords", least=1)
        if self.points is not None:
            check_points(self.points, "Vector: points")
        shape = self._table.shape
        if shape != (self.codewords, self.dimension):
            raise UserError(
                f"Vector(dimension={self.dimension}, codewords={self.codewords}): points are {shape[0]} of {shape[1]} "
                "coordinates; use Vector.of(points)"
            )
        if isinstance(self.group, int) and self.group % self.dimension:
            raise UserError(
                f"Vector(dimension={self.dimension}, group={self.group}): the dimension must divide the group"
            )
        Scalar(TERNARY, Rms(1.0), self.group)  # says what a group may be

    @classmethod
    def of(cls, points: ArrayLike, group: int | Literal["row", "matrix"] = "row") -> "Vector":
        """A codebook of one's own, (codewords, dimension), its coordinates rounded to 12 significant bits."""
        words = rounded_points(points)
        return cls(len(words[0]), len(words), group, words)

    @property
    def _table(self) -> NDArray[np.float32]:
        """The codewords, (codewords, dimension)."""
        return codebook(self.dimension, self.codewords) if self.points is None else _own_codebook(self.points)

    @property
    def scaling(self) -> Scalar:
        """A scalar format whose one level is the RMS itself: the measure and the storage of the scales."""
        return Scalar(TERNARY, Rms(1.0), self.group)

    @property
    def words(self) -> Codebook:
        """As kernels know them."""
        words = self._table
        return Codebook(tuple(map(tuple, words.tolist())), float(np.max(np.linalg.norm(words, axis=1))))

    @property
    def run(self) -> int:
        """Neighbours of a vector."""
        return self.dimension

    @property
    def codes(self) -> int:
        """Codewords, of which a code names one."""
        return self.codewords

    @jit_inline(0)
    def project_by(self, parts: Parts, x: Array, keep: Array | None = None) -> Projection:
        """Nearest codeword of each vector at given scales; `relative_magnitude` is its norm over that of the outermost.

        `keep`: boolean, the same for all values of a vector; the others are zero.
        """
        found = on_codebook(self.words, to_float32(x, "Vector"), self._scale(parts, x.shape))
        value = in_dtype(found.value, x.dtype)
        if keep is None:
            return found._replace(value=value)
        return found._replace(value=jnp.where(keep, value, jnp.zeros_like(value)), keep=keep)

    def kernel_spec(self) -> Spec | Unsupported:
        """The codebook, and the kernel's rule for the scale."""
        scaling = self.scaling.kernel_spec()
        return scaling if isinstance(scaling, Unsupported) else replace(scaling, grid=None, codebook=self.words)

    def kernel_given(self, x: Array, ctx: Context) -> Array:
        """Numbers for kernels, as `Scalar.kernel_given`."""
        return self.scaling.kernel_given(x, ctx)

    def codes_of(self, x: Array, parts: Parts) -> Array:
        """Codeword of every vector, int32 (..., K / dimension)."""
        return code_of_vectors(self.words, to_float32(x, "Vector"), self._scale(parts, x.shape))[1]

    def values_of(self, codes: Array, parts: Parts, dtype: DTypeLike) -> Array:
        """Codewords times scales, (..., K): inverse of `codes_of`."""
        shape = (*codes.shape[:-1], codes.shape[-1] * self.dimension)
        words = jnp.asarray(self._table)[codes].reshape(shape)
        return in_dtype(words * self._scale(parts, shape), dtype)
