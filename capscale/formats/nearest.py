"""The nearest matrix of low rank, or sum of Kronecker products, in a subspace that training carries along.

Both sets bound a rank (`capscale.parametrizations.OfRank`), of the matrix or of its entries in another arrangement (Van
Loan and Pitsianis, 1993). The nearest point keeps the largest singular values (Eckart and Young, 1936), so it is the
entries projected onto the span of that many right singular vectors. These are the state: found by a singular value
decomposition at first, and turned by one step of subspace iteration after every optimizer step, which costs two
products and a QR decomposition of a narrow matrix. As weights move little in a step, the subspace stays near the best.

A matrix and its rank are all that decides the value: sums of floats in it are added in the order of the device.
"""

from dataclasses import dataclass
from math import ceil, log2, prod

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline
from capscale.kernels.rms import largest_magnitude
from capscale.parametrizations import OfRank
from capscale.parametrizations.low_rank import error_outside

from .base import Context, Granularity, Projection, in_dtype, refuse_shard, rounded, to_float32
from .distributions import Distribution
from .mse import Mse
from .scaling import ROW
from .sparse import VALUE_BITS
from .storage import Codes, Field, Shape, codes_value, value_bits, value_codes

EXACT = jax.lax.Precision.HIGHEST


class InSubspace:
    """A format whose value lies in, or beside, a subspace of the matrix that training carries along as its state."""

    @property
    def granularity(self) -> Granularity:
        """The subspace is of the matrix."""
        return "matrix"

    @property
    def any_order(self) -> bool:
        """True: sums over the matrix are in the order of the device."""
        return True

    @property
    def state_saves_work(self) -> bool:
        """True: without a state the subspace is found anew."""
        return True


@dataclass(frozen=True)
class Nearest(InSubspace):
    """`x` at the nearest matrix of a set: `LowRank(share=0.25)`, `LowRank(16)`, or a `KroneckerSum`.

    Stored are two factors in the dtype of `x`, by which the value is computed. The gradient passes straight through: it
    is what turns the subspace, as one projected onto it could not. `Context.state` is the basis of the subspace, of
    orthonormal columns; without it the best one is found anew.

    A share has bits and an error in the limit of large matrices. A rank, or a number of terms, has none: its `bits` and
    its error are those of squares of 1024, and `storage_bits` and `error_of` say those of a matrix.
    """

    of: OfRank

    def __post_init__(self) -> None:
        if not isinstance(self.of, OfRank):
            raise UserError(f"Nearest(of={self.of!r}): use LowRank(share=0.25) or KroneckerSum(share=0.25)")

    @property
    def has_limit(self) -> bool:
        """Whether bits and error go to a limit in large matrices: those of a share do."""
        return self.of.share is not None

    @property
    def bits(self) -> float:
        """Both factors in bfloat16."""
        if self.of.share is not None:
            return VALUE_BITS * self.of.share
        return VALUE_BITS * self.of.stored_numbers((self._side, self._side)) / self._side**2

    @property
    def _side(self) -> int:
        """Of the square that bits and error are told of where they have no limit: 1024, or more where it is too few."""
        side, count = ROW, self.of.count or 0
        while side < 2 * count:
            side *= 4
        return side

    def error(self, distribution: Distribution, samples: int | None) -> Mse:
        """Of a square matrix, in the limit of large ones of independent entries, whatever their law; see `error_of`."""
        if samples is None and self.of.share is not None:
            return Mse(error_outside(self.of.share / 2, 1.0), "closed form, large squares")
        side = samples or self._side
        return Mse(self.error_of((side, side), distribution), f"closed form, squares of {side}")

    def error_of(self, shape: Shape, distribution: Distribution) -> float:
        """Of a matrix of these sides, by the law of its limit, which is the same for all laws of entries."""
        return self.of.gmse((shape[-1], shape[-2]))

    def initial_state(self, x: Array) -> Array:
        """Right singular vectors of the largest singular values, (..., columns of the arrangement, rank)."""
        return self._basis(to_float32(x, "Nearest"))

    @jit_inline(0)
    def _basis(self, x: Array) -> Array:
        rank = self._rank(x)
        _, _, rows = jnp.linalg.svd(self.of.arranged(_in_unit(x)), full_matrices=False)
        return jnp.swapaxes(rows[..., :rank, :], -1, -2)

    def next_state(self, state: Array, x: Array, gradient: Array, step: Array, progress: Array) -> Array:
        """The subspace after a step of subspace iteration with `x`; `gradient` and the rest are not read."""
        entries = self.of.arranged(_in_unit(to_float32(x, "Nearest")))
        turned = _product(entries.swapaxes(-1, -2), _product(entries, state))
        return jnp.linalg.qr(turned)[0]

    def project(self, x: Array, ctx: Context) -> Projection:
        """Entries on the subspace of the state."""
        left, right = self.factors(x, x.dtype, ctx)
        return Projection(value=in_dtype(self.product(left, right, x.shape), x.dtype))

    @jit_inline(0, 2)
    def factors(self, x: Array, dtype: DTypeLike, ctx: Context) -> tuple[Array, Array]:
        """Factors as they are stored: coordinates of the rows, and the basis, in `dtype`."""
        full, rank = to_float32(x, "Nearest"), self._rank(x)
        refuse_shard(x, f"the subspace of {self}")
        basis = self._basis(full) if ctx.state is None else ctx.state
        columns = self.of.sides((x.shape[-2], x.shape[-1]))[1]
        if basis.shape[-2:] != (columns, rank):
            raise UserError(
                f"{self}: a basis of shape {basis.shape} in Context.state, and a matrix of {x.shape[-2:]} has one of "
                f"{(columns, rank)}; take it from initial_state of this matrix"
            )
        # Coordinates reach sqrt(columns) times the largest entry, beyond float16: the basis takes that factor.
        power = 2.0 ** ceil(log2(columns) / 2)
        left = in_dtype(self.coordinates(full, basis) / power, dtype)
        return left, in_dtype(basis.swapaxes(-1, -2) * power, dtype)

    def coordinates(self, x: Array, basis: Array) -> Array:
        """Entries of float32 `x` along the columns of a basis, (..., rows of the arrangement, rank)."""
        return _product(self.of.arranged(x), basis)

    @jit_inline(0, 3)
    def product(self, left: Array, right: Array, shape: Shape) -> Array:
        """The matrix that two factors make, float32."""
        made = _product(left.astype(jnp.float32), right.astype(jnp.float32))
        return rounded(self.of.arranged_back(made, (shape[-2], shape[-1])))

    def _rank(self, x: Array) -> int:
        if x.ndim < 2:
            raise UserError(f"{self} is of matrices, and this tensor has the shape {x.shape}; give two axes at least")
        return self.of.rank_of((x.shape[-1], x.shape[-2]))  # inputs stand last here, and first where it is refused

    def factor_shapes(self, shape: Shape) -> tuple[Shape, Shape]:
        """Shapes of both factors of a tensor of this shape."""
        matrix = shape[-2], shape[-1]
        (rows, columns), rank = self.of.sides(matrix), self.of.rank_of((shape[-1], shape[-2]))
        return (*shape[:-2], rows, rank), (*shape[:-2], rank, columns)

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Fields of both factors, in the dtype of the tensor."""
        sizes = [prod(each) for each in self.factor_shapes(shape)]
        return tuple(Field(name, size, 2 ** value_bits(dtype)) for name, size in zip(FACTORS, sizes, strict=True))

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes of both factors, as numbers of that dtype."""
        return dict(zip(FACTORS, map(value_codes, self.factors(x, x.dtype, ctx)), strict=True))

    def loaded(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """The matrix of stored factors, float32."""
        both = zip(FACTORS, self.factor_shapes(shape), strict=True)
        left, right = (jnp.asarray(codes_value(codes[name], dtype)).reshape(each) for name, each in both)
        return self.product(left, right, shape)

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Product of the stored factors, in `dtype`."""
        return in_dtype(self.loaded(codes, shape, dtype), dtype)

    def __str__(self) -> str:
        return f"nearest-{self.of}"


FACTORS = ("left", "right")
"""Names of the stored fields."""


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=EXACT)


def _in_unit(x: Array) -> Array:
    """Matrices by the power of two of their largest entry, so that powers of two factor out of the basis exactly."""
    largest = largest_magnitude(x, (-2, -1))
    _, exponent = jnp.frexp(jnp.where(largest > 0, largest, 1.0))
    return jnp.ldexp(x, -exponent)
