"""Equinox models under a policy: weights are (out, in), attention, stacks, what formats own as fields, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.adapters import compress, describe
from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.formats import Noise, TopK
from capscale.formats.rigl import RigL
from capscale.formats.schedule import Cubic
from capscale.representation import DENSE, Operand, Representation, operand, project_weights

eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install 'capscale[equinox]'")
from capscale.adapters.equinox import with_context  # noqa: E402

W4 = Representation(operand("int4"))
W4A8 = Representation(operand("int4"), operand("int8", per_token=True), hadamard=16)
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 64))


def test_weights_are_projected_along_their_last_axis():
    layer = eqx.nn.Linear(64, 24, key=KEY)
    assert [(p.path, p.row) for p in describe(layer, W4).compressed.values()] == [("weight", 64)]
    held = eqx.tree_at(lambda layer: layer.weight, layer, project_weights(layer.weight.T, W4).T)
    np.testing.assert_allclose(jax.vmap(compress(layer, W4))(X), jax.vmap(held)(X), rtol=1e-5, atol=1e-5)
    wrong = eqx.tree_at(lambda layer: layer.weight, layer, project_weights(layer.weight, W4))
    assert np.abs(jax.vmap(wrong)(X) - jax.vmap(held)(X)).max() > 1e-2, "this test can fail"


@pytest.mark.ci
def test_layers_within_models_are_found():
    model = eqx.nn.MLP(64, "scalar", 32, 2, key=KEY)
    compressed = compress(model, (("layers/2/.*", DENSE), (".*", W4A8)))
    assert list(describe(model, W4A8).compressed) == [f"layers/{i}/weight" for i in range(3)]
    assert jax.vmap(compressed)(X).shape == (6,)
    attention = eqx.nn.MultiheadAttention(4, 64, key=KEY)
    assert {p.row for p in describe(attention, W4A8).compressed.values()} == {64}
    assert compress(attention, W4A8)(X, X, X).shape == X.shape


def test_stacked_layers_are_theirs_one_by_one():
    stacked = compress(eqx.filter_vmap(lambda key: eqx.nn.Linear(64, 64, key=key))(jax.random.split(KEY, 3)), W4A8)
    arrays, static = eqx.partition(stacked, eqx.is_array)
    found, _ = jax.lax.scan(lambda x, layer: (eqx.combine(layer, static)(x), None), X[0], arrays)
    expected = X[0]
    for i in range(3):
        expected = eqx.combine(jax.tree.map(lambda a, i=i: a[i], arrays), static)(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_noise_and_schedules_ask_for_a_context_of_the_step():
    layer = eqx.nn.Linear(64, 24, key=KEY)
    noisy = compress(layer, Representation(Operand(Noise(0.05))))
    with pytest.raises(UserError, match=r"draws random numbers.*with_context"):
        noisy(X[0])
    one, again, other = (with_context(noisy, key=jax.random.key(k))(X[0]) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    pruned = compress(layer, Representation(Operand(TopK(0.5, schedule=Cubic()), StraightThrough())))
    with pytest.raises(UserError, match=r"follows a schedule.*with_context"):
        pruned(X[0])
    np.testing.assert_allclose(with_context(pruned, progress=0.0)(X[0]), layer(X[0]), rtol=1e-5, atol=1e-5)
    assert np.abs(with_context(pruned, progress=1.0)(X[0]) - layer(X[0])).max() > 0.1


def test_learned_scales_are_a_field_that_trains():
    learned = compress(eqx.nn.Linear(64, 24, key=KEY), Representation(operand("lsq4")))
    gradient = eqx.filter_grad(lambda model: jnp.sum(jax.vmap(model)(X)))(learned)
    assert np.any(np.asarray(gradient.weights_step) != 0)


@pytest.mark.parametrize(
    ("make", "policy", "says"),
    [
        (lambda: eqx.nn.Linear(8, 8, key=KEY), (("head/.*", W4),), "matches no parameter"),
        (lambda: eqx.nn.Linear(8, 8, key=KEY), Representation(Operand(RigL(0.5))), "keeps a state"),
        (lambda: eqx.nn.Linear(8, 8, key=KEY), Representation(DENSE.weights, Operand(Noise(0.1))), "learn or draw"),
        (lambda: eqx.nn.Conv1d(8, 8, 3, key=KEY), W4, "is of no known layer"),
        (lambda: eqx.nn.Embedding(8, 8, key=KEY), W4, "looked up, not multiplied"),
    ],
)
def test_what_cannot_be_held_is_refused(make, policy, says):
    with pytest.raises(UserError, match=says):
        compress(make(), policy)
