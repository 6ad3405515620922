"""Mask rules as they are traced: what one reads and computes, and one as Mosaic takes it.

A rule is `(float32 x, measures) -> where the gradient passes`, elementwise jnp; `measures` a named tuple.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal, jaxprs_in_params

Rule = Callable[..., Any]
_CALLS = ("jit", "pjit")  # what a function that jnp compiles by itself is in another's trace


@cache
def reads(rule: Rule, measures: Any, name: str) -> bool:
    """Whether the rule reads that measure. `measures`: shapes and dtypes."""
    measure = getattr(measures, name)

    def passes(measure: Array, x: Array, others: Any) -> Array | None:
        return rule(x, others._replace(**{name: measure}))

    x = jax.ShapeDtypeStruct(measure.shape, jnp.float32)
    traced = jax.make_jaxpr(passes)(measure, x, measures._replace(**{name: None})).jaxpr
    return any(read is traced.invars[0] for step in traced.eqns for read in step.invars)


def operations(jaxpr: Any) -> set[str]:
    """Names of the operations of a traced function, those inside of others included."""
    inner = [operations(part) for step in jaxpr.eqns for part in jaxprs_in_params(step.params)]
    return {step.primitive.name for step in jaxpr.eqns}.union(*inner)


def evaluate(rule: Rule, x: Array, measures: Any) -> Array | None:
    """`rule(x, measures)` in a kernel, its negations of booleans and choices between them by way of numbers.

    Mosaic does not lower the former on GPUs, nor the latter on TPUs.
    """
    traced = jax.make_jaxpr(rule)(x, measures)
    if not _chooses_booleans(traced.jaxpr):
        return rule(x, measures)
    (passes,) = _run(traced.jaxpr, traced.consts, jax.tree.leaves((x, measures)))
    return passes


def _boolean(step: Any) -> bool:
    """Whether it negates booleans or chooses between them."""
    if step.primitive.name not in ("not", "select_n"):
        return False
    return step.invars[0].aval.dtype == step.outvars[0].aval.dtype == jnp.bool


def _chooses_booleans(jaxpr: Any) -> bool:
    inner = (part for step in jaxpr.eqns for part in jaxprs_in_params(step.params))
    return any(map(_boolean, jaxpr.eqns)) or any(map(_chooses_booleans, inner))


def _run(jaxpr: Any, consts: list[Any], operands: list[Any]) -> list[Any]:
    """Operations of a traced function, step by step."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))

    def value(name: Any) -> Any:
        return name.val if isinstance(name, Literal) else known[name]

    for step in jaxpr.eqns:
        read = [value(name) for name in step.invars]
        if _boolean(step):
            found = [_by_numbers(step.primitive.name, *read)]
        elif step.primitive.name in _CALLS:
            called = step.params["jaxpr"]
            found = _run(called.jaxpr, called.consts, read)
        else:
            found = step.primitive.bind(*read, **step.params)
            found = found if step.primitive.multiple_results else [found]
        known.update(zip(step.outvars, found, strict=True))
    return [value(name) for name in jaxpr.outvars]


def _by_numbers(name: str, first: Array, *cases: Array) -> Array:
    """The negation of `first`, or the case that it chooses: the second where it is true."""
    if name == "not":
        return jnp.where(first, 0.0, 1.0) > 0
    off, on = (jnp.where(case, 1.0, 0.0) for case in cases)
    return jnp.where(first, on, off) > 0
