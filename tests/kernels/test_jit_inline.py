"""Functions that are one program outside jit, and inlined inside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.jit_inline import jit_inline


@dataclass(frozen=True)
class Power:
    exponent: int

    @jit_inline(0)
    def of(self, x, shift=None):
        """Raises to a power."""
        if self.exponent < 0:
            raise ValueError("exponent must be 0 or more")
        power = x**self.exponent
        return power if shift is None else power + shift


@jit_inline(1)
def total(x, axis=-1):
    return jnp.sum(x * x, axis)


X = jnp.arange(6.0).reshape(2, 3)


def compiled(function, *arguments):
    """How many programs XLA makes of a call."""
    programs = []
    jax.monitoring.register_event_duration_secs_listener(
        listener := lambda name, *_, **__: programs.append(name) if name.endswith("backend_compile_duration") else None
    )
    try:
        jax.block_until_ready(function(*arguments))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return len(programs)


def test_a_call_is_one_program_and_the_next_none():
    def plain(x):
        return jnp.sum(jnp.sin(x) * x + 2.0 * x)

    x = jnp.arange(7.0)
    assert compiled(plain, x) > 1
    assert compiled(jit_inline()(plain), x) == 1
    assert compiled(Power(3).of, x, x) == 1
    assert compiled(Power(3).of, x, x) == 0, "another object, equal"
    assert compiled(Power(2).of, x, x) == 1, "static arguments are told apart"


def test_inside_jit_it_is_inlined():
    def names(function):
        return str(jax.make_jaxpr(lambda x: function(x).sum())(X))

    assert "name=total" in names(jax.jit(total.__wrapped__))
    assert "name=total" not in names(total)
    assert "name=of" not in names(Power(3).of)


def test_it_is_the_function_under_every_transformation():
    np.testing.assert_allclose(Power(3).of(X, shift=1.0), np.asarray(X) ** 3 + 1)
    np.testing.assert_array_equal(total(X), total(X, axis=1))
    np.testing.assert_allclose(jax.vmap(total)(X), np.square(X).sum(axis=1))
    np.testing.assert_allclose(jax.grad(lambda x: Power(3).of(x).sum())(X), 3 * np.square(X))
    assert Power.of.__doc__ == "Raises to a power."
    with pytest.raises(ValueError, match="exponent must be"):
        Power(-1).of(X)
