"""Rows that are normalised by their root mean square ahead of a projection, by the kernel that projects or by XLA.

y = x / sqrt(mean of x^2 + epsilon) * gain,   in float32, rounded to the dtype of x
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from .. import dispatch
from ..matmul.codes import Multiplicand, Steps
from ..mesh import by_rows
from .op import BackendChoice, Call, pulled
from .reference import Projected
from .spec import Spec


class Normed(NamedTuple):
    """Rows x (..., K) whose norm is not taken yet, and its gain (K,), float32."""

    x: Array
    gain: Array
    epsilon: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows, (..., K)."""
        return self.x.shape

    def value(self) -> Array:
        """The normalised rows, by XLA."""
        norm: Callable[[Array, Array], Array] = partial(normalised, self.epsilon)
        if dispatch.current().platform != "cpu":  # keeps x for the backward pass, in place of x in float32
            norm = jax.checkpoint(norm, prevent_cse=False)
        return norm(self.x, self.gain)


def normalised(epsilon: float, x: Array, gain: Array) -> Array:
    """Rows x (..., K) over their root mean square, times the gain (K,), in the dtype of x."""
    x32 = x.astype(jnp.float32)
    inverse_rms = lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + epsilon)
    return (x32 * inverse_rms * jnp.broadcast_to(gain, x.shape)).astype(x.dtype)


def without_norm(spec: Spec, how: BackendChoice, width: int, dtype: DTypeLike) -> str | None:
    """Why no kernel of that backend normalises such rows as it projects them, or None where it does."""
    if how.backend != "tpu":
        return "the projection of TPUs alone normalises"
    from .tpu import prologue

    return prologue.unsupported(spec, width, dtype)


def project_normed(
    spec: Spec, rows: Normed, how: BackendChoice, steps: Steps | None = None
) -> tuple[Array, Multiplicand | None]:
    """`op.project` of the normalised rows, and int8 codes of these `steps` where they are given, by one kernel.

    The norm's own gradient is XLA's, which reads `rows.x` once more. Raises ValueError for what is `without_norm`.
    """
    width = rows.shape[-1]
    if (reason := without_norm(spec, how, width, rows.x.dtype)) is not None:
        raise ValueError(f"{spec}: {reason}")
    spec.check(width)
    x_RK = rows.x.reshape(-1, width)
    value, codes = cast(
        tuple[Array, Multiplicand | None], _project(spec, Call(how, None, steps), rows.epsilon, x_RK, rows.gain)
    )
    if codes is not None:
        codes = Multiplicand(codes.codes.reshape(rows.shape), codes.scales.reshape(*rows.shape[:-1], 1))
    return value.reshape(rows.shape), codes


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _project(spec: Spec, by: Call, epsilon: float, x_RK: Array, gain_K: Array) -> tuple[Array, Multiplicand | None]:
    return _forward(spec, by, epsilon, x_RK, gain_K)[0]


def _forward(
    spec: Spec, by: Call, epsilon: float, x_RK: Array, gain_K: Array
) -> tuple[tuple[Array, Multiplicand | None], tuple[Array | None, Array, Array]]:
    def run(x_RK: Array, gain_K: Array) -> Projected:
        from .tpu import project

        return project.project(spec, x_RK, norm=(epsilon, gain_K), **by.options)

    found = by_rows(run, whole=1)(x_RK, gain_K)
    return (found.value_RK, found.codes), (found.mask_RW, x_RK, gain_K)


def _backward(
    spec: Spec, by: Call, epsilon: float, kept: tuple[Array | None, Array, Array], cotangents: tuple[Array, Any]
) -> tuple[Array, Array]:
    mask_RW, x_RK, gain_K = kept
    _, pull = jax.vjp(partial(normalised, epsilon), x_RK, gain_K)
    return pull(pulled(spec, by, mask_RW, cotangents[0]))


_project.defvjp(_forward, _backward)
