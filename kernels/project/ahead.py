"""A projection of rows that are not computed yet: by the kernel that computes them first, a norm or a gated product.

A prologue is a value and a function. Its first operands are `rows` arrays of rows (R, K); those behind them, (K,), are
the same for all rows.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from ..matmul.codes import Multiplicand, Steps
from ..mesh import by_rows
from .gated import Gate, Gated
from .norm import Norm, Normed
from .op import BackendChoice, Call
from .reference import Projected
from .spec import Spec

Prologue = Norm | Gate
Ahead = Normed | Gated
"""Rows with what is to be computed of them: their `shape`, the `prologue`, its `operands`, and its `value()` by XLA."""


class Beside(NamedTuple):
    """Projected rows and what comes beside them.

    `codes`: where steps are given. `x`: rows ahead of their norm, as they came, None of a gated product. Who reads them
    from here, as a residual connection does, has the gradient of both ways added up by the kernel that writes it.
    """

    value: Array
    codes: Multiplicand | None
    x: Array | None


def without_prologue(spec: Spec, how: BackendChoice, width: int, dtype: DTypeLike, prologue: Prologue) -> str | None:
    """Why no kernel of that backend computes such rows as it projects them, or None where one does."""
    if how.backend != "tpu":
        return "the projection of TPUs alone computes rows ahead of it"
    from .tpu import prologue as tpu

    return tpu.unsupported(prologue, spec, width, dtype)


def project_ahead(spec: Spec, rows: Ahead, how: BackendChoice, steps: Steps | None = None) -> Beside:
    """`op.project` of `rows.value()`, and int8 codes of these `steps` where they are given, by one kernel.

    Raises ValueError for what is `without_prologue`, and for rows that are not alike.
    """
    width, prologue = rows.shape[-1], rows.prologue
    of_rows, shared = rows.operands[: prologue.rows], rows.operands[prologue.rows :]
    if len({(each.shape, each.dtype) for each in of_rows}) > 1:
        raise ValueError(f"rows of {' and '.join(map(str, map(jax.typeof, of_rows)))} differ in shape or dtype")
    if (reason := without_prologue(spec, how, width, of_rows[0].dtype, prologue)) is not None:
        raise ValueError(f"{spec}: {reason}")
    spec.check(width)
    operands = (*(each.reshape(-1, width) for each in of_rows), *shared)
    value, codes, x = cast(Beside, _project(spec, Call(how, None, steps), prologue, operands))
    if codes is not None:
        codes = Multiplicand(codes.codes.reshape(rows.shape), codes.scales.reshape(*rows.shape[:-1], 1))
    return Beside(value.reshape(rows.shape), codes, None if x is None else x.reshape(rows.shape))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _project(spec: Spec, by: Call, prologue: Prologue, operands: tuple[Array, ...]) -> Beside:
    return _forward(spec, by, prologue, operands)[0]


def _forward(
    spec: Spec, by: Call, prologue: Prologue, operands: tuple[Array, ...]
) -> tuple[Beside, tuple[Array | None, tuple[Array, ...]]]:
    def run(x_RK: Array, *others: Array) -> Projected:
        from .tpu import project

        return project.project(spec, x_RK, ahead=(prologue, others), **by.options)

    found = by_rows(run, whole=len(operands) - prologue.rows)(*operands)
    past = None if prologue.elementwise else operands[0]
    return Beside(found.value_RK, found.codes, past), (found.mask_RW, operands)


def _backward(
    spec: Spec, by: Call, prologue: Prologue, kept: tuple[Array | None, tuple[Array, ...]], cotangents: Any
) -> tuple[tuple[Array, ...]]:
    """Gradients of the operands. Signs (K,) are constants, and get none."""
    (mask_RW, operands), (g_RK, _, past_RK) = kept, cotangents
    masks, shared = [] if mask_RW is None else [mask_RW], operands[prologue.rows :]

    def run(g_RK: Array, *others: Array) -> tuple[Array, Array]:
        from .tpu import project

        rows, options = list(others), by.how.options()
        mask = rows.pop(0) if masks else None
        if isinstance(prologue, Norm):
            past_RK, x_RK, gain_K = rows
            return project.backward_normed(spec, prologue, mask, (g_RK, past_RK), (x_RK, gain_K), **options)
        return project.backward_gated(spec, mask, g_RK, rows, **options)

    past = [] if past_RK is None else [past_RK]
    found = by_rows(run, whole=len(shared))(g_RK, *masks, *past, *operands)
    if past:  # the gain's, of blocks of rows of all devices
        return ((found[0], jnp.sum(found[1], axis=0)),)
    return ((*found, *(jnp.zeros_like(each) for each in shared)),)


_project.defvjp(_forward, _backward)
