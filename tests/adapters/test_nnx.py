"""Flax NNX models under a policy: attention, stacks, what formats own as variables, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capscale.adapters import compress, describe
from capscale.adapters.nnx import set_context
from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.formats import Absmax, Int, Learned, Noise, Scalar, TopK
from capscale.formats.rigl import RigL
from capscale.formats.schedule import Cubic
from capscale.representation import DENSE, Operand, Representation, operand, project_weights

W4 = Representation(operand("int4"))
W4A8 = Representation(operand("int4"), operand("int8", per_token=True), hadamard=16)
X = jax.random.normal(jax.random.key(1), (2, 5, 64))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(4, 64, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(64, rngs=rngs)
        self.head = nnx.Linear(64, 8, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.attention(x)))


def layer(features=8, **options):
    return nnx.Linear(64, features, rngs=nnx.Rngs(0), **options)


def test_attention_is_projected_along_what_it_contracts():
    found = describe(Model(nnx.Rngs(0)), W4).compressed
    assert {path: (each.shape, each.row) for path, each in found.items()} == {
        **{f"attention/{name}/kernel": ((64, 4, 16), 64) for name in ("query", "key", "value")},
        "attention/out/kernel": ((4, 16, 64), 64),
        "head/kernel": ((64, 8), 64),
    }
    model, by_hand = Model(nnx.Rngs(0)), Model(nnx.Rngs(0))
    for part in (by_hand.attention.query, by_hand.attention.key, by_hand.attention.value, by_hand.attention.out):
        w = part.kernel[...]
        part.kernel.set_value(project_weights(w.reshape(64, 64), W4).reshape(w.shape))
    found = compress(model, (("head/.*", DENSE), (".*", W4)))(X)
    np.testing.assert_allclose(found, by_hand(X), rtol=1e-5, atol=1e-5)
    assert np.abs(found - model(X)).max() > 1e-2, "the model given is left as it was"


def test_stacked_layers_are_theirs_one_by_one():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return nnx.Linear(64, 64, rngs=nnx.Rngs(key))

    compressed = compress(make(jax.random.split(jax.random.key(0), 3)), W4A8)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(layer, x):
        return layer(x)

    expected = X
    one = compress(layer(64), W4A8)
    for i in range(3):
        one.kernel.set_value(compressed.kernel[...][i])
        one.bias.set_value(compressed.bias[...][i])
        expected = one(expected)
    np.testing.assert_allclose(run(compressed, X), expected, rtol=1e-5, atol=1e-5)


def test_noise_and_schedules_ask_for_a_context_of_the_step():
    noisy = compress(layer(), Representation(Operand(Noise(0.05))))
    with pytest.raises(UserError, match=r"draws random numbers.*set_context"):
        noisy(X)
    found = []
    for key in (0, 0, 1):
        set_context(noisy, key=jax.random.key(key))
        found.append(np.asarray(noisy(X)))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    pruned = compress(layer(), Representation(Operand(TopK(0.5, schedule=Cubic()), StraightThrough())))
    with pytest.raises(UserError, match=r"follows a schedule.*set_context"):
        pruned(X)
    set_context(pruned, progress=0.0)
    np.testing.assert_allclose(pruned(X), layer()(X), rtol=1e-5, atol=1e-5)
    set_context(pruned, progress=1.0)
    assert np.abs(pruned(X) - layer()(X)).max() > 0.1


def test_learned_scales_are_parameters_that_train():
    learned = compress(layer(), Representation(operand("lsq4")))
    gradient = nnx.grad(lambda model: jnp.sum(model(X)))(learned)
    assert np.any(np.asarray(gradient["dot_general"]["weights_step"][...]) != 0)
    inputs = Representation(DENSE.weights, Operand(Scalar(Int(8), Learned(), group="matrix")))
    with pytest.raises(UserError, match="give compress some"):
        compress(layer(), inputs)
    started = compress(layer(), inputs, X)
    assert float(started.dot_general.activations_step[...]) > 0


@pytest.mark.parametrize(
    ("model", "policy", "says"),
    [
        (layer(), (("head/.*", W4),), "matches no parameter"),
        (layer(precision="highest"), W4, "its precision='highest' cannot be followed"),
        (layer(dot_general=lambda *args, **options: None), W4, "a dot_general of its own"),
        (layer(), Representation(Operand(RigL(0.5))), "keeps a state"),
        (nnx.Einsum("ab,bc->ac", (64, 8), rngs=nnx.Rngs(0)), W4, r"kernel \(64, 8\) is of no known layer"),
        (nnx.Embed(64, 8, rngs=nnx.Rngs(0)), W4, "looked up, not multiplied"),
        (layer(), ((".*", Representation(Operand(Scalar(Int(4), Absmax()))), 1),), "whose layer says"),
    ],
)
def test_what_cannot_be_held_is_refused(model, policy, says):
    with pytest.raises(UserError, match=says):
        compress(model, policy)
