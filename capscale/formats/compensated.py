"""Rounded weights and a low rank beside them: what rounding leaves is brought to the nearest matrix of low rank.

LoftQ (arXiv 2310.08659) starts adapters of quantized weights so, by alternating both; INT2.1 (arXiv 2306.08162) trains
low-rank matrices that make up for the error of two-bit weights; GEAR (arXiv 2403.05527) keeps outliers as well.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline

from .base import NO_CONTEXT, Context, Granularity, Projection, in_dtype, to_float32
from .distributions import Distribution
from .mse import Mse, exact_error
from .nearest import FACTORS, Nearest
from .rounding import Rounding, refuse_alone
from .scalar import Scalar
from .storage import Codes, Field, Shape, Storable, value_codes


@dataclass(frozen=True)
class Compensated:
    """`Q(x) + P(x - Q(x))`: a scalar format or codebook Q, and P to the nearest matrix of low rank.

    Stored are the codes and scales of Q, and both factors of P in the dtype of `x`. The gradient passes straight
    through: the sum is near `x` where either part is not, so neither's own trust region is the sum's. There is one
    round of both, none of LoftQ's further ones, in which Q would see what the factors leave.

    Attributes:
      rounding: Q, with measured scales.
      remainder: P, whose basis is the state.
    """

    rounding: Rounding
    remainder: Nearest

    def __post_init__(self) -> None:
        if not isinstance(self.rounding, Rounding) or self.rounding.learns or not isinstance(self.rounding, Storable):
            raise UserError(
                f"Compensated(rounding={self.rounding!r}): the first must be a Scalar or a Vector with measured scales"
            )
        if isinstance(self.rounding, Scalar):
            refuse_alone(self.rounding, self)
        if not isinstance(self.remainder, Nearest):
            raise UserError(
                f"Compensated(remainder={self.remainder!r}): the second must be a format of low rank, such as "
                "Nearest(LowRank(share=0.05))"
            )

    @property
    def bits(self) -> float:
        """Codes, scales, and both factors in bfloat16."""
        return self.rounding.bits + self.remainder.bits

    @property
    def granularity(self) -> Granularity:
        """The subspace is of the matrix."""
        return "matrix"

    @property
    def any_order(self) -> bool:
        """True: what is rounded to levels is the given matrix, and sums over it come behind that."""
        return True

    @property
    def state_saves_work(self) -> bool:
        """True: without a state the subspace is found anew."""
        return True

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """That of the rounding, times what a low rank leaves of independent entries: of large squares."""
        inner = exact_error(self.rounding, distribution, samples)
        if inner is None:
            return None
        left = self.remainder.error(distribution, samples)
        return Mse(inner.value * left.value, f"{inner.method}, {left.method.removeprefix('closed form, ')}")

    def error_of(self, shape: Shape, distribution: Distribution) -> float | None:
        """Of a matrix of these sides; None where the error of the rounding is not known."""
        inner = exact_error(self.rounding, distribution, shape[-1])
        return None if inner is None else inner.value * self.remainder.error_of(shape, distribution)

    def initial_state(self, x: Array) -> Array:
        """Basis of the nearest low rank to what rounding leaves."""
        return self.remainder.initial_state(self._apart(x)[1])

    def next_state(self, state: Array, x: Array, gradient: Array, step: Array, progress: Array) -> Array:
        """A step of subspace iteration with what rounding leaves."""
        return self.remainder.next_state(state, self._apart(x)[1], gradient, step, progress)

    @jit_inline(0)
    def _apart(self, x: Array) -> tuple[Array, Array]:
        """Rounded values of `x`, and the rest that they leave, float32."""
        rounded = self.rounding.project(x, NO_CONTEXT).value.astype(jnp.float32)
        return rounded, to_float32(x, "Compensated") - rounded

    def project(self, x: Array, ctx: Context) -> Projection:
        """Sum of the rounded matrix and the low rank."""
        rounded, rest = self._apart(x)
        left, right = self.remainder.factors(rest, x.dtype, ctx)
        return Projection(value=in_dtype(rounded + self.remainder.product(left, right, x.shape), x.dtype))

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Fields of the rounding, and both factors."""
        assert isinstance(self.rounding, Storable)
        return *self.rounding.layout(shape, dtype), *self.remainder.layout(shape, dtype)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes and scales, and both factors."""
        assert isinstance(self.rounding, Storable)
        left, right = self.remainder.factors(self._apart(x)[1], x.dtype, ctx)
        factors = {name: value_codes(factor) for name, factor in zip(FACTORS, (left, right), strict=True)}
        return {**self.rounding.store(x, NO_CONTEXT), **factors}

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Sum of both parts, in `dtype`."""
        assert isinstance(self.rounding, Storable)
        rounded = self.rounding.load(codes, shape, dtype).astype(jnp.float32)
        return in_dtype(rounded + self.remainder.loaded(codes, shape, dtype), dtype)
