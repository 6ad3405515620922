"""Rounded weights and a low rank beside them: what rounding leaves is brought to the nearest matrix of low rank.

LoftQ (arXiv 2310.08659) starts adapters of quantized weights so, by rounds that alternate both; INT2.1 (arXiv
2306.08162) trains low-rank matrices that make up for the error of two-bit weights; GEAR (arXiv 2403.05527) has a sparse
matrix of outliers as a third part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from capscale.checks import check_whole
from capscale.errors import UserError
from capscale.kernels.jit_inline import jit_inline

from .base import NO_CONTEXT, Context, Projection, in_dtype, refuse_shard, to_float32
from .distributions import Distribution
from .mse import Mse, exact_error
from .nearest import FACTORS, InSubspace, Nearest
from .outliers import Outliers
from .rounding import Rounding, refuse_alone
from .scalar import Scalar
from .storage import Codes, Field, Shape, Storable, value_codes

MOST_ROUNDS = 64
"""A program has the operations of every round, a singular value decomposition each."""


@dataclass(frozen=True)
class Compensated(InSubspace):
    """`Q(x - L') + L`, L = P(x - Q(x - L')): a format Q that rounds, P to the nearest matrix of low rank.

    Stored are the codes and scales of Q, and both factors of L in the dtype of `x`. The gradient passes straight
    through: the sum is near `x` where either part is not, so neither's own trust region is the sum's.

    L' is what the round before found for L, and 0 in the first round, of which there is one alone unless more are
    asked. Where training starts, and where nothing is trained, all rounds are run, and of these the one that leaves
    least is kept: a rounding whose scales are measured need not come nearer in every round. In training every step is
    one more round, with the low rank of the step before.

    Attributes:
      rounding: Q, with measured scales; beside outliers, which are kept as they are, and L is of what the others leave.
      remainder: P, whose basis is the state; of several rounds, followed by the basis and the coordinates of L'.
      rounds: how often both alternate.
    """

    JSON_ADDED: ClassVar[Mapping[str, int]] = {"rounds": 1}

    rounding: Rounding | Outliers
    remainder: Nearest
    rounds: int = 1

    def __post_init__(self) -> None:
        check_whole(self, "rounds", least=1, most=MOST_ROUNDS)
        rounds = isinstance(self.rounding, Rounding) and not self.rounding.learns
        if not (rounds or isinstance(self.rounding, Outliers)) or not isinstance(self.rounding, Storable):
            raise UserError(
                f"Compensated(rounding={self.rounding!r}): the first must be a Scalar or a Vector with measured "
                "scales, or one of these beside Outliers"
            )
        if isinstance(self.rounding, Scalar):
            refuse_alone(self.rounding, self)
        if not isinstance(self.remainder, Nearest):
            raise UserError(
                f"Compensated(remainder={self.remainder!r}): the second must be a format of low rank, such as "
                "Nearest(LowRank(share=0.05))"
            )

    @property
    def has_limit(self) -> bool:
        """Whether bits and error go to a limit in large matrices, as they do unless the rank is fixed."""
        return self.remainder.has_limit

    @property
    def bits(self) -> float:
        """Codes, scales, outliers, and both factors in bfloat16."""
        return self.rounding.bits + self.remainder.bits

    def error(self, distribution: Distribution, samples: int | None) -> Mse | None:
        """That of the rounding, times what a low rank leaves of independent entries; None of several rounds."""
        inner = exact_error(self.rounding, distribution, samples)
        if inner is None or self.rounds > 1:
            return None
        left = self.remainder.error(distribution, samples)
        return Mse(inner.value * left.value, f"{inner.method}, {left.method.removeprefix('closed form, ')}")

    def error_of(self, shape: Shape, distribution: Distribution) -> float | None:
        """Of a matrix of these sides; None of several rounds, and where the error of the rounding is not known.

        Of a rounding that has no closed form at this length of rows it is that of long ones.
        """
        known = (exact_error(self.rounding, distribution, samples) for samples in (shape[-1], None))
        inner = next((error for error in known if error is not None), None)
        if inner is None or self.rounds > 1:
            return None
        return inner.value * self.remainder.error_of(shape, distribution)

    def initial_state(self, x: Array) -> Array:
        """Basis of the nearest low rank to what rounding leaves, and L' of several rounds, of the best of them."""
        return self.remainder.initial_state(self._apart(x, None)[2]) if self.rounds == 1 else self._settled(x)

    @jit_inline(0)
    def _settled(self, x: Array) -> Array:
        """State of the round, of every matrix by itself, that leaves least; the first of equals."""
        before, found = self._nothing(x.shape), []
        for _ in range(self.rounds):
            rest = self._apart_from(x, self._low_rank(*before, x.shape))[2]
            basis = self.remainder.initial_state(rest)
            found.append(self._round(rest, basis, before))
            before = basis, self.remainder.coordinates(rest, basis)
        return _least(found)

    def next_state(self, state: Array, x: Array, gradient: Array, step: Array, progress: Array) -> Array:
        """A step of subspace iteration with what rounding leaves; of several rounds, with L' of a further one.

        Of every matrix by itself that leaves least which is found with L' as it is, one round further, or 0: so that
        no step leaves more than rounding alone. A round moves what its grid leaves into L, which a grid that is too
        coarse for L' may make larger, and further rounds larger still, without bound.
        """
        if self.rounds == 1:
            return self.remainder.next_state(state, self._apart(x, None)[2], gradient, step, progress)
        basis, *kept = self._parts(state, x.shape)
        further = basis, self.remainder.coordinates(self._apart(x, state)[2], basis)
        found = []
        for before in ((kept[0], kept[1]), further, self._nothing(x.shape)):
            rest = self._apart_from(x, self._low_rank(*before, x.shape))[2]
            turned = self.remainder.next_state(basis, rest, gradient, step, progress)
            found.append(self._round(rest, turned, before))
        return _least(found)

    def _nothing(self, shape: Shape) -> tuple[Array, Array]:
        """Basis and coordinates of an L' of 0."""
        left, right = (jnp.zeros(size, jnp.float32) for size in self.remainder.factor_shapes(shape))
        return right.swapaxes(-1, -2), left

    def _round(self, rest: Array, basis: Array, before: tuple[Array, Array]) -> tuple[Array, Array]:
        """Energy that a round leaves of every matrix, and the state that says the round: basis of L, and L'."""
        left = self.remainder.coordinates(rest, basis)
        wrong = jnp.square(rest - self._low_rank(basis, left, rest.shape)).sum((-2, -1), keepdims=True)
        return wrong, jnp.concatenate([basis, *before], axis=-2)

    def _parts(self, state: Array, shape: Shape) -> tuple[Array, Array, Array]:
        """Basis of L, and basis and coordinates of L'."""
        left, right = self.remainder.factor_shapes(shape)
        rows, rank, columns = left[-2], left[-1], right[-1]
        if state.shape[-2:] != (2 * columns + rows, rank):
            raise UserError(
                f"{self}: a state of shape {state.shape} in Context.state, and a matrix of {shape[-2:]} has one of "
                f"{(2 * columns + rows, rank)}; take it from initial_state of this matrix"
            )
        return state[..., :columns, :], state[..., columns : 2 * columns, :], state[..., 2 * columns :, :]

    def _low_rank(self, basis: Array, left: Array, shape: Shape) -> Array:
        return self.remainder.product(left, basis.swapaxes(-1, -2), shape)

    @jit_inline(0)
    def _apart(self, x: Array, state: Array | None) -> tuple[Array, Array, Array]:
        """The matrix that is rounded, in the dtype of `x`; its rounded values, and what they leave of `x`, float32."""
        if self.rounds == 1 or state is None:
            return self._apart_from(x, None)
        _, before, left = self._parts(state, x.shape)
        return self._apart_from(x, self._low_rank(before, left, x.shape))

    def _apart_from(self, x: Array, low_rank: Array | None) -> tuple[Array, Array, Array]:
        given = x if low_rank is None else in_dtype(to_float32(x, "Compensated") - low_rank, x.dtype)
        rounded = self.rounding.project(given, NO_CONTEXT).value.astype(jnp.float32)
        return given, rounded, to_float32(x, "Compensated") - rounded

    def _settled_context(self, x: Array, ctx: Context) -> tuple[Array | None, Context]:
        """State of several rounds, found where there is none, and a context with that of the low rank alone."""
        if self.rounds == 1:
            return None, ctx
        refuse_shard(x, f"the subspace of {self}")
        state = self.initial_state(x) if ctx.state is None else ctx.state
        return state, ctx._replace(state=self._parts(state, x.shape)[0])

    def project(self, x: Array, ctx: Context) -> Projection:
        """Sum of the rounded matrix and the low rank."""
        state, of_low_rank = self._settled_context(x, ctx)
        _, rounded, rest = self._apart(x, state)
        left, right = self.remainder.factors(rest, x.dtype, of_low_rank)
        return Projection(value=in_dtype(rounded + self.remainder.product(left, right, x.shape), x.dtype))

    def layout(self, shape: Shape, dtype: DTypeLike) -> tuple[Field, ...]:
        """Fields of the rounding, and both factors."""
        assert isinstance(self.rounding, Storable)
        return *self.rounding.layout(shape, dtype), *self.remainder.layout(shape, dtype)

    def store(self, x: Array, ctx: Context) -> dict[str, Codes]:
        """Codes, scales and outliers, and both factors."""
        assert isinstance(self.rounding, Storable)
        state, of_low_rank = self._settled_context(x, ctx)
        given, _, rest = self._apart(x, state)
        left, right = self.remainder.factors(rest, x.dtype, of_low_rank)
        factors = {name: value_codes(factor) for name, factor in zip(FACTORS, (left, right), strict=True)}
        return {**self.rounding.store(given, NO_CONTEXT), **factors}

    def load(self, codes: dict[str, Codes], shape: Shape, dtype: DTypeLike) -> Array:
        """Sum of both parts, in `dtype`."""
        assert isinstance(self.rounding, Storable)
        rounded = self.rounding.load(codes, shape, dtype).astype(jnp.float32)
        return in_dtype(rounded + self.remainder.loaded(codes, shape, dtype), dtype)


def _least(found: list[tuple[Array, Array]]) -> Array:
    """The state, of every matrix by itself, that leaves least; the first of equals."""
    least, best = found[0]
    for wrong, state in found[1:]:
        best, least = jnp.where(wrong < least, state, best), jnp.minimum(wrong, least)
    return best
