"""Vector quantization: runs of d neighbours to the nearest of n codewords (HIGGS grids, arXiv 2411.17525)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from math import log2, prod
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from numpy.typing import ArrayLike, NDArray

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.project import Codebook, Spec, Unsupported, code_of_vectors, on_codebook

from .base import Context, Granularity, Projection, in_dtype, to_float32
from .levels import TERNARY
from .points import Points, check_points, rounded_points
from .scalar import Parts, Scalar
from .scale import Rms
from .storage import Codes, Field, Shape


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
class Vector:
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
    def bits(self) -> float:
        """A code a vector, plus a scale's share of its group."""
        scaling = self.scaling
        return log2(self.codewords) / self.dimension + scaling.bits - log2(scaling.grid.codes)

    @property
    def granularity(self) -> Granularity:
        """Scope of the scales."""
        return self.scaling.granularity

    def per_row(self) -> "Vector":
        """One RMS per row where one served the matrix."""
        return replace(self, group="row" if self.group == "matrix" else self.group)

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

    @property
    def learns(self) -> bool:
        """Whether the scales are learned: they are measured."""
        return False

    def measure(self, x: Array, ctx: Context, counted: Array | None = None) -> Parts:
        """RMS of each group; see `Scalar.measure`."""
        if x.shape[-1] % self.dimension:
            raise UserError(f"vectors of {self.dimension} need a width that it divides, not {x.shape[-1]}")
        return self.scaling.measure(x, ctx, counted)

    def _scale(self, parts: Parts, shape: Shape) -> Array:
        """The scale of every value."""
        split = jnp.broadcast_to(parts[0], self.scaling.groups.split_shape(shape))
        return self.scaling.groups.join(split, shape)

    @jit_inline(0)
    def project(self, x: Array, ctx: Context) -> Projection:
        """Nearest codeword of each vector; `relative_magnitude` is its norm over that of the outermost codeword."""
        return self.project_by(self.measure(x, ctx), x)

    @jit_inline(0)
    def project_by(self, parts: Parts, x: Array, keep: Array | None = None) -> Projection:
        """`project` with given scales. `keep`: boolean, the same for all values of a vector; the others are zero."""
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

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """A code a vector, and the scales."""
        return Field("codes", prod(shape) // self.dimension, self.codewords), *self.scale_layout(shape)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of the values, and scales."""
        index, parts = self._coded(x, ctx)
        return {"codes": np.asarray(index, np.uint32).reshape(-1), **self.store_scales(parts)}

    @partial(jax.jit, static_argnums=0)
    def _coded(self, x: Array, ctx: Context) -> tuple[Array, Parts]:
        parts = self.measure(x, ctx)
        return self.codes_of(x, parts), parts

    def codes_of(self, x: Array, parts: Parts) -> Array:
        """Codeword of every vector, int32 (..., K / dimension)."""
        return code_of_vectors(self.words, to_float32(x, "Vector"), self._scale(parts, x.shape))[1]

    def values_of(self, codes: Array, parts: Parts, dtype: DTypeLike) -> Array:
        """Codewords times scales, (..., K): inverse of `codes_of`."""
        shape = (*codes.shape[:-1], codes.shape[-1] * self.dimension)
        words = jnp.asarray(self._table)[codes].reshape(shape)
        return in_dtype(words * self._scale(parts, shape), dtype)

    def scale_layout(self, shape: Shape) -> tuple[Field, ...]:
        """The scales as they are stored."""
        return self.scaling.scale_layout(shape)

    def store_scales(self, parts: Parts) -> dict[str, Codes]:
        """Codes of the scales, by field name."""
        return self.scaling.store_scales(parts)

    def load_scales(self, codes: dict[str, Codes], shape: Shape) -> Parts:
        """Scales of the codes, the inverse of `store_scales`."""
        return self.scaling.load_scales(codes, shape)

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Values: codewords times scales."""
        index = jnp.asarray(codes["codes"]).reshape(*shape[:-1], shape[-1] // self.dimension)
        return self.values_of(index, self.load_scales(codes, shape), dtype)
