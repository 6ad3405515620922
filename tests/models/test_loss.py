"""Cross-entropy in parts: the same numbers, and never all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support.cases import parametrize
from support.hlo import depths_of_sums_over_devices

from capscale.models.loss import LOGITS, cross_entropy, mean_cross_entropy, tokens_at_once

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


@parametrize("at_once", [1, 2, 8], default=[2])
@parametrize("dtype", [jnp.float32, jnp.bfloat16], default=[jnp.bfloat16])
def test_mean_and_its_gradients_are_those_of_the_equation(dtype, at_once):
    """Against autodiff of the losses of all tokens at once, with a cotangent that is not one."""
    x, head, target = arguments(dtype)

    def plain(x, head):
        return 3 * cross_entropy(x, head, target, jnp.float32, T).mean()

    def ours(x, head):
        return 3 * mean_cross_entropy(x, head, target, dtype, at_once)

    wanted = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(x.astype(jnp.float32), head.astype(dtype))
    found = jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))(x, head)
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [jnp.float32, dtype, jnp.float32]
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    for one, other in zip(*jax.tree.map(np.float32, [jax.tree.leaves(wanted), jax.tree.leaves(found)]), strict=True):
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * np.abs(one).max())
    np.testing.assert_allclose(jax.jit(ours)(x, head), found[0], rtol=1e-6)


def equations(jaxpr):
    """Every equation of a jaxpr, inner ones included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def test_training_computes_logits_once():
    """Three products with the head: logits, gradient of the features, gradient of the head."""
    x, head, target = arguments(jnp.bfloat16)
    traced = jax.make_jaxpr(
        jax.value_and_grad(lambda x, head: mean_cross_entropy(x, head, target, jnp.bfloat16, 2), argnums=(0, 1))
    )(x, head)
    assert [eqn.primitive.name for eqn in equations(traced.jaxpr)].count("dot_general") == 3


@pytest.mark.parametrize("sides", [(2, 1), (1, 2)])
def test_devices_add_up_the_gradient_of_the_head_once(sides):
    """On a mesh: the numbers of one device, and one sum over devices, outside of the loop over parts."""
    x, head, target = arguments(jnp.float32)
    x, target = x[:2], target[:2]
    both = jax.value_and_grad(lambda x, head, y: mean_cross_entropy(x, head, y, jnp.float32, 2), argnums=(0, 1))
    mesh = jax.make_mesh(sides, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    columns = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        compiled = jax.jit(both, in_shardings=(rows, columns, rows)).lower(x, head, target).compile()
        found = compiled(*jax.device_put((x, head, target), (rows, columns, rows)))
    for one, other in zip(*map(jax.tree.leaves, (both(x, head, target), found)), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)
    assert depths_of_sums_over_devices(compiled) == {0}


def largest(jaxpr) -> int:
    """Most values of any array in a jaxpr, inner ones included."""
    variables = (v for eqn in equations(jaxpr) for v in (*eqn.invars, *eqn.outvars))
    return max(v.aval.size for v in variables if hasattr(v.aval, "size"))


@pytest.mark.parametrize("at_once", [1, 2, 4, 8])
def test_no_array_holds_more_logits_than_asked_for(at_once):
    """With gradients and without; all of them when all are asked for."""
    b, t, m, v = 2, 8, 4, 4096
    x, head, target = jnp.ones((b, t, m)), jnp.ones((v, m)), jnp.zeros((b, t), int)

    def mean(x, head):
        return mean_cross_entropy(x, head, target, jnp.bfloat16, at_once)

    for function in (jax.value_and_grad(mean, argnums=(0, 1)), mean):
        assert largest(jax.make_jaxpr(function)(x, head).jaxpr) == max(b * at_once * v, v * m)


@pytest.mark.parametrize(
    ("sequences", "context", "vocabulary", "expected"),
    [(8, 64, 96, 64), (64, 512, 32_000, 32), (1, 512, 100_000, 512), (2, 512, 100_000, 256), (10**6, 7, 10**6, 1)],
)
def test_tokens_at_once(sequences, context, vocabulary, expected):
    found = tokens_at_once(sequences, context, vocabulary)
    assert found == expected
    assert context % found == 0
    assert found == 1 or sequences * found * vocabulary <= LOGITS
