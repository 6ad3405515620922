"""Keys and values as a cache would hold them: against attention by hand, token by token, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.attention.reference import causal_attention
from support import tiny

from capscale.adapters import compress
from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.catalog import find
from capscale.formats.serialize import from_json, to_json
from capscale.models.assigned import assigned
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.layers import Attention, initializers
from capscale.models.rotary import rotary_embedding
from capscale.representation import DENSE, Representation, operand, project_activations, project_cached

pytestmark = pytest.mark.ci

MODEL = replace(tiny.MODEL, heads=2, kv_heads=1, width=16)
BOTH = Representation(keys=operand("int4", per_token=True), values=operand("int2", per_token=True))


def attention(representation):
    return Attention(MODEL, representation, *initializers(MODEL), jnp.float32)


def applied(representation, params, x) -> jax.Array:
    return jnp.asarray(attention(representation).apply(params, x, NO_CONTEXT))


@pytest.fixture(scope="module")
def inputs():
    x = jax.random.normal(jax.random.key(1), (2, MODEL.context, MODEL.width))
    return x, attention(DENSE).init(jax.random.key(0), x, NO_CONTEXT)


def by_hand(params, x, keys, values):
    """Attention of dense linear layers, with any functions of the rows of keys and values."""

    def heads(name, count):
        return (x @ params["params"][name]["kernel"]).reshape(*x.shape[:2], count, MODEL.features_per_head)

    q = rotary_embedding(heads("query", 2), MODEL.rope_theta, MODEL.rope_scaling)
    k = rotary_embedding(heads("key", 1), MODEL.rope_theta, MODEL.rope_scaling)
    mixed = causal_attention(q, keys(k), values(heads("value", 1)))
    return mixed.reshape(x.shape) @ params["params"]["out"]["kernel"]


def test_heads_and_tokens_are_projected_after_rotary_positions(inputs):
    x, params = inputs
    found = applied(BOTH, params, x)
    expected = by_hand(
        params,
        x,
        lambda k: find("int4").project(k, NO_CONTEXT).value,
        lambda v: find("int2").project(v, NO_CONTEXT).value,
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    assert float(jnp.abs(found - applied(DENSE, params, x)).max()) > 0.01


def test_gradients_pass_through_the_estimators_mask(inputs):
    """At a key beyond the last level nothing passes, as in `project`: the one rule of all operands."""
    x, params = inputs

    def loss(params, representation):
        return jnp.sum(jnp.square(applied(representation, params, x)))

    def expected_loss(params):
        keys, values = (lambda k: project_cached(k, BOTH, "keys")), (lambda v: project_cached(v, BOTH, "values"))
        return jnp.sum(jnp.square(by_hand(params, x, keys, values)))

    found, expected = jax.grad(loss)(params, BOTH), jax.grad(expected_loss)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), found, expected)
    k = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8)), jnp.float32).at[0, 0].set(9.0)
    _, pull = jax.vjp(lambda k: project_cached(k, BOTH, "keys"), k)
    ones = np.asarray(pull(jnp.ones_like(k))[0])
    mask = np.asarray(BOTH.keys.backward()(k, find("int4").project(k, NO_CONTEXT)))
    np.testing.assert_array_equal(ones, mask.astype(np.float32))
    assert ones[0, 0] == 0
    assert ones.sum() > 20


def test_a_rotation_is_along_a_head_and_undone():
    rotated = replace(BOTH, hadamard=8, signs=3)
    k = jax.random.normal(jax.random.key(2), (5, 2, 8))
    alone = Representation(activations=operand("int4", per_token=True), hadamard=8, signs=3)
    np.testing.assert_array_equal(project_cached(k, rotated, "keys"), project_activations(k, alone))
    fine = replace(rotated, keys=operand("int8", per_token=True))
    np.testing.assert_allclose(project_cached(k, fine, "keys"), k, atol=0.05)


def test_no_token_sees_a_later_one():
    """So that a token's keys and values can be stored once, when it is read."""
    params = initial_params(MODEL, BOTH, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(3), (1, MODEL.context), 0, MODEL.vocabulary)
    changed = tokens.at[0, 9:].set((tokens[0, 9:] + 1) % MODEL.vocabulary)
    logits = jax.jit(lambda t: Decoder(MODEL, BOTH).apply({"params": params}, t, NO_CONTEXT))
    before, after = np.asarray(logits(tokens)), np.asarray(logits(changed))
    np.testing.assert_array_equal(before[0, :9], after[0, :9])
    assert np.abs(before[0, 9:] - after[0, 9:]).max() > 1e-3


def test_under_a_policy_the_layer_that_makes_them_says_it():
    """Rules of the projections `key` and `value` alone, in the last layer alone: earlier layers are as they were."""
    policy = (("layers/1/attention/(key|value)/.*", BOTH), (".*", DENSE))
    params = initial_params(MODEL, DENSE, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(3), (1, MODEL.context), 0, MODEL.vocabulary)

    def logits(representation):
        return np.asarray(Decoder(MODEL, representation).apply({"params": params}, tokens, NO_CONTEXT))

    mixed, everywhere = logits(assigned(MODEL, policy)), logits(BOTH)
    last = assigned(MODEL, (("layers/1/.*", BOTH), (".*", DENSE)))
    np.testing.assert_array_equal(mixed, logits(last))
    assert np.abs(mixed - logits(DENSE)).max() > 1e-3
    assert np.abs(mixed - everywhere).max() > 1e-3


def test_noise_is_drawn_anew_and_apart_for_keys_and_values(inputs):
    x, params = inputs
    noisy = Representation(keys=operand("noise3", per_token=True), values=operand("noise3", per_token=True))

    def out(seed, representation=noisy):
        ctx = Context(jnp.float32(0), jax.random.key(seed))
        return jnp.asarray(attention(representation).apply(params, x, ctx, rngs={"formats": jax.random.key(seed)}))

    np.testing.assert_array_equal(out(0), out(0))
    assert float(jnp.abs(out(0) - out(1)).max()) > 1e-3


@pytest.mark.parametrize(
    ("side", "name", "message"),
    [
        ("keys", "int4-matrix", "keys=.* would let one token see others"),
        ("values", "rigl50", "values=.* have no state from step to step"),
        ("keys", "lsq4", "keys=.* learns a scale, which attention has no parameter for"),
    ],
)
def test_refusals(side, name, message):
    with pytest.raises(UserError, match=message):
        replace(DENSE, **{side: operand(name)})


def test_linear_layers_of_others_do_not_take_them():
    with pytest.raises(
        UserError, match="keys=int4 and values=int2 are of attention, which a linear layer does not see"
    ):
        compress({"w": jnp.ones((8, 8))}, ((".*", BOTH, 0),))


def test_the_id_of_a_run_without_them_stays_and_json_has_them():
    assert "keys" not in to_json(Representation(operand("int4")))
    told = to_json(BOTH)
    assert from_json(told["keys"]["format"]) == find("int4")
    assert from_json(told["values"]["format"]) == find("int2")
    assert tiny.run(representation=BOTH).run_id != tiny.run(representation=DENSE).run_id


def test_a_run_trains_and_resumes(tmp_path):
    run = tiny.run(representation=replace(BOTH, weights=operand("int4")))
    whole = tiny.train_one(run, tmp_path / "whole")
    executor = tiny.one_device(run)
    tiny.interrupt([run], [tmp_path / "cut"], executor, at=6)
    assert tiny.train_one(run, tmp_path / "cut")["row"]["loss"] == whole["row"]["loss"]
