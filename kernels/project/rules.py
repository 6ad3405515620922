"""Mask rules as they are traced: what one reads and computes, and one as Mosaic takes it.

A rule is `(float32 x, measures) -> where the gradient passes`, elementwise jnp; `measures` a named tuple.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
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


@cache
def length(function: Callable[..., Any]) -> int:
    """How many operations an elementwise function of float32 is traced to; hashable."""
    return _length(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((1, 2), jnp.float32)).jaxpr)


def _length(jaxpr: Any) -> int:
    inside = [list(jaxprs_in_params(step.params)) for step in jaxpr.eqns]
    return sum(sum(map(_length, parts)) if parts else 1 for parts in inside)


def evaluate(rule: Rule, x: Array, measures: Any) -> Array | None:
    """`rule(x, measures)` in a kernel, its negations of booleans and choices between them by way of numbers.

    Mosaic does not lower the former on GPUs, nor the latter on TPUs.
    """
    traced = jax.make_jaxpr(rule)(x, measures)
    if not _chooses_booleans(traced.jaxpr):
        return rule(x, measures)
    (passes,) = _run(traced.jaxpr, traced.consts, jax.tree.leaves((x, measures)), _booleans)
    return passes


_WHOLE = 1.5 * 2.0**23
"""Where numbers of float32 are a unit apart, 2^22 to either side."""


def rounding_by_sums(zero: Array, function: Callable[..., Any], *operands: Any) -> Any:
    """`function(*operands)`, elementwise in float32, with two additions in place of every rounding to whole numbers.

    A TPU takes six or more operations for one. Exact up to 2^22; what is larger comes out within 2, or within one part
    in 2^22, which is beyond the ends of any grid and stays there. `zero`: one that compilers do not know for one, as
    XLA makes nothing of a constant that is added and taken away again.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*operands)
    found = _run(traced.jaxpr, traced.consts, jax.tree.leaves(operands), partial(_by_sums, zero + _WHOLE))
    return jax.tree.unflatten(jax.tree.structure(shape), found)


def _boolean(step: Any) -> bool:
    """Whether it negates booleans or chooses between them."""
    if step.primitive.name not in ("not", "select_n"):
        return False
    return step.invars[0].aval.dtype == step.outvars[0].aval.dtype == jnp.bool


def _chooses_booleans(jaxpr: Any) -> bool:
    inner = (part for step in jaxpr.eqns for part in jaxprs_in_params(step.params))
    return any(map(_boolean, jaxpr.eqns)) or any(map(_chooses_booleans, inner))


def _run(jaxpr: Any, consts: list[Any], operands: list[Any], instead: Callable[..., Any]) -> list[Any]:
    """Operations of a traced function, step by step; `instead` gives the result of those it replaces."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *operands], strict=True))

    def value(name: Any) -> Any:
        return name.val if isinstance(name, Literal) else known[name]

    for step in jaxpr.eqns:
        read = [value(name) for name in step.invars]
        replaced = instead(step, *read)
        if replaced is not None:
            found = [replaced]
        elif step.primitive.name in _CALLS:
            called = step.params["jaxpr"]
            found = _run(called.jaxpr, called.consts, read, instead)
        else:
            found = step.primitive.bind(*read, **step.params)
            found = found if step.primitive.multiple_results else [found]
        known.update(zip(step.outvars, found, strict=True))
    return [value(name) for name in jaxpr.outvars]


def _booleans(step: Any, *operands: Any) -> Array | None:
    """The negation of a boolean, or the case that it chooses: the second where it is true."""
    if not _boolean(step):
        return None
    first, *cases = operands
    if step.primitive.name == "not":
        return jnp.where(first, 0.0, 1.0) > 0
    off, on = (jnp.where(case, 1.0, 0.0) for case in cases)
    return jnp.where(first, on, off) > 0


def _by_sums(whole: Array, step: Any, *operands: Any) -> Array | None:
    """The whole number nearest to a float32, ties to even."""
    if step.primitive.name != "round" or step.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        return None
    return (operands[0] + whole) - whole
