"""Cross-entropy in parts: the same numbers, and never all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from capscale.models.loss import LOGITS, cross_entropy, tokens_at_once

B, T, M, V = 3, 8, 5, 11


def arguments(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (B, T, M)).astype(dtype)
    return x, jax.random.normal(keys[1], (V, M)), jax.random.randint(keys[2], (B, T), 0, V)


def oracle(x, head, target):
    logits = np.float64(x) @ np.float64(head).T
    return np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, np.asarray(target)[..., None], -1)[..., 0]


@pytest.mark.parametrize("at_once", [1, 2, 4, 8])
def test_losses_are_those_of_the_equation(at_once):
    x, head, target = arguments(jnp.float32)
    found = jax.jit(lambda x, head: cross_entropy(x, head, target, jnp.float32, at_once))(x, head)
    assert found.shape == (B, T)
    np.testing.assert_allclose(found, oracle(x, head, target), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_in_parts_are_those_of_the_whole(dtype):
    """With a weight per token, so that no two parts could be exchanged; the head's gradient is summed in float32."""
    x, head, target = arguments(dtype)
    weight = jnp.arange(B * T, dtype=jnp.float32).reshape(B, T)

    def total(x, head, at_once):
        return (weight * cross_entropy(x, head, target, dtype, at_once)).sum()

    whole = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)(x, head, T)
    parts = jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)(x, head, 2)
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    for one, other in zip(*jax.tree.map(np.float32, (whole, parts)), strict=True):
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * np.abs(one).max())


def largest(jaxpr) -> int:
    """Most values of any array in a jaxpr, inner ones included."""
    sizes = [v.aval.size for eqn in jaxpr.eqns for v in (*eqn.invars, *eqn.outvars) if hasattr(v.aval, "size")]
    return max([0, *sizes, *(largest(inner) for eqn in jaxpr.eqns for inner in jaxprs_in_params(eqn.params))])


@pytest.mark.parametrize("at_once", [1, 2, 4, 8])
def test_no_array_holds_more_logits_than_asked_for(at_once):
    """Forward and backward; all of them when all are asked for."""
    b, t, m, v = 2, 8, 4, 4096
    x, head, target = jnp.ones((b, t, m)), jnp.ones((v, m)), jnp.zeros((b, t), int)

    def mean(x, head):
        return cross_entropy(x, head, target, jnp.bfloat16, at_once).mean()

    traced = jax.make_jaxpr(jax.value_and_grad(mean, argnums=(0, 1)))(x, head)
    assert largest(traced.jaxpr) == max(b * at_once * v, v * m)


@pytest.mark.parametrize(
    ("sequences", "context", "vocabulary", "expected"),
    [(8, 64, 96, 64), (64, 512, 32_000, 32), (1, 512, 100_000, 512), (2, 512, 100_000, 256), (10**6, 7, 10**6, 1)],
)
def test_tokens_at_once(sequences, context, vocabulary, expected):
    found = tokens_at_once(sequences, context, vocabulary)
    assert found == expected
    assert context % found == 0
    assert found == 1 or sequences * found * vocabulary <= LOGITS
