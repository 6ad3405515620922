"""Trees of parameters under a policy: contractions are stated, formats own trees beside, and the rest is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.adapters import compress, describe
from capscale.contraction import Contraction
from capscale.errors import UserError
from capscale.estimators import StraightThrough
from capscale.formats import Noise, TopK
from capscale.formats.base import Context
from capscale.formats.rigl import RigL
from capscale.formats.schedule import Cubic
from capscale.representation import DENSE, Operand, Representation, operand, project_weights

W4 = Representation(operand("int4"))


def draw(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


PARAMS = {
    "blocks": [{"w": draw(32, 24), "b": jnp.zeros(24)}, {"w": draw(24, 32), "b": jnp.zeros(32)}],
    "table": draw(9, 32),
}
POLICY = (("table", DENSE), ("blocks/0/w", W4, 0), ("blocks/1/w", W4, -1))


def test_each_rule_says_what_is_contracted():
    held = compress(PARAMS, POLICY).project(PARAMS)
    first, second = (block["w"] for block in PARAMS["blocks"])
    np.testing.assert_array_equal(held["blocks"][0]["w"], project_weights(first, W4))
    np.testing.assert_array_equal(held["blocks"][1]["w"], project_weights(second.T, W4).T)
    assert held["table"] is PARAMS["table"]
    assert [p.row for p in describe(PARAMS, POLICY).compressed.values()] == [32, 32]


def test_stacks_with_several_inputs_are_projected_matrix_by_matrix():
    """The outputs of attention: (layers, heads, head width, width), all heads contracted; a share of each layer."""
    pruned = Representation(operand("top50"))
    params = {"out": draw(3, 4, 8, 16) * jnp.asarray([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1)}
    compressed = compress(params, (("out", pruned, Contraction((1, 2), stacked=0)),))
    found = compressed.project(params)["out"]
    for layer in range(3):
        expected = project_weights(params["out"][layer].reshape(32, 16), pruned).reshape(4, 8, 16)
        np.testing.assert_array_equal(found[layer], expected)


def test_a_state_moves_with_the_gradient_at_the_compressed_weights():
    params = {"w": draw(16, 16)}
    compressed = compress(params, (("w", Representation(Operand(RigL(0.5, period=1))), 0),))
    with pytest.raises(UserError, match="needs its state"):
        compressed.project(params)
    state = compressed.initial_state(params)
    held, pull = jax.vjp(lambda p: compressed.project(p, state=state), params)
    dense = jax.grad(lambda held: jnp.sum(jnp.square(held["w"] - 3.0)))(held)
    (masters,) = pull(dense)
    kept = np.asarray(state["w"]).T
    assert np.all(np.asarray(dense["w"])[~kept] != 0)
    assert np.all(np.asarray(masters["w"])[~kept] == 0)
    step, share = jnp.int32(1), jnp.float32(0.1)
    moved = compressed.next_state(state, params, dense, step=step, progress=share)
    assert not np.array_equal(moved["w"], state["w"])
    assert int(moved["w"].sum()) == int(state["w"].sum())


def test_learned_numbers_lie_in_a_tree_beside_and_get_gradients():
    params = {"w": draw(3, 32, 8)}
    compressed = compress(params, (("w", Representation(operand("lsq4")), Contraction(1, stacked=0)),))
    with pytest.raises(UserError, match="needs its learnable parameters"):
        compressed.project(params)
    learned = compressed.initial_learned(params)
    assert learned["w"].shape[0] == 3
    gradient = jax.grad(lambda learned: jnp.sum(compressed.project(params, learned=learned)["w"]))(learned)
    assert np.any(np.asarray(gradient["w"]) != 0)


def test_noise_and_schedules_read_the_context():
    params = {"a": draw(16, 16), "b": draw(16, 16)}
    noisy = compress(params, (("a|b", Representation(Operand(Noise(0.05))), 0),))
    with pytest.raises(UserError, match="needs a key"):
        noisy.project(params)
    found = noisy.project(params, Context(key=jax.random.key(0)))
    assert not np.array_equal(found["a"], found["b"]), "equal weights, each with noise of its own"
    pruned = compress(params, (("a|b", Representation(Operand(TopK(0.5, schedule=Cubic()), StraightThrough())), 0),))
    with pytest.raises(UserError, match="needs a progress"):
        pruned.project(params)
    np.testing.assert_array_equal(pruned.project(params, Context(progress=0.0))["a"], params["a"])


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (W4, r"blocks/0/w \(32, 24\) is an array of no known layer, so the axes"),
        (POLICY[1:], "no rule covers table"),
        ((*POLICY, ("blocks/2/w", W4, 0)), "matches no parameter"),
        ((("blocks/./w", W4, 2), (".*", DENSE)), "does not have"),
        ((("blocks/./w", W4, Contraction((0, 1))), (".*", DENSE)), "no output axis"),
        ((("blocks/./w", W4, Contraction(0, stacked=0)), (".*", DENSE)), "no axis twice"),
        (
            (("blocks/./w", Representation(DENSE.weights, operand("int8", per_token=True)), 0), (".*", DENSE)),
            "activations",
        ),
        ((("blocks/./b", W4, 0), (".*", DENSE)), "would compress blocks/0/b"),
    ],
)
def test_what_cannot_be_held_is_refused(policy, says):
    with pytest.raises(UserError, match=says):
        compress(PARAMS, policy)


def test_other_parameters_and_other_things_are_refused():
    compressed = compress(PARAMS, POLICY)
    with pytest.raises(UserError, match="not those that were compressed"):
        compressed.project({"blocks": PARAMS["blocks"]})
    with pytest.raises(UserError, match="neither a Flax or Equinox module nor a tree"):
        compress(3, W4)
