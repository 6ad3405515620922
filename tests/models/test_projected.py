"""Weights projected once, ahead of the model: the same numbers as projecting them inside every layer."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny
from support.cases import parametrize

from capscale.formats.base import Context
from capscale.models import projected
from capscale.models.decoder import Decoder
from capscale.models.projected import project_params
from capscale.representation import DENSE, ProjectedWeight, Representation, linear, operand, project_weights

CTX = Context(jnp.float32(1), None)
REPRESENTATIONS = {
    "dense": DENSE,
    "int4 rotated": tiny.INT4,
    "int4 both, rotated": Representation(operand("int4"), operand("int4"), 8),
    "top50": Representation(operand("top50")),
    "2:4": Representation(operand("2:4")),
    "int1": Representation(operand("int1"), hadamard=8),
}
each = pytest.mark.parametrize("representation", REPRESENTATIONS.values(), ids=REPRESENTATIONS.keys())


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@cache
def params_of(layers: int):
    model = Decoder(replace(tiny.MODEL, layers=layers, init_std=0.3))
    return jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 4), jnp.int32), CTX)["params"]


@each
def test_linear_takes_held_weights_as_they_are(representation):
    x, w, g = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate([(5, 16), (16, 8), (5, 8)]))

    def ahead(x, w):
        return linear(x, ProjectedWeight(project_weights(w, representation)), representation)

    results = [jax.vjp(f, x, w) for f in (ahead, lambda x, w: linear(x, w, representation))]
    same(*(value for value, _ in results))
    same(*(pull(g) for _, pull in results))
    if not representation.weights.is_dense:
        # The marking is what keeps linear from projecting: unmarked weights go through it.
        assert not np.array_equal(linear(x, ProjectedWeight(w), representation), linear(x, w, representation))


def loss(params, representation, hold):
    """A loss of the tiny model, and its logits."""
    tokens = np.random.default_rng(1).integers(0, 96, (3, 16)).astype(np.int32)
    held_or_not = project_params(params, representation, CTX) if hold else params
    logits = Decoder(tiny.MODEL, representation).apply({"params": held_or_not}, jnp.asarray(tokens), CTX)
    return -jax.nn.log_softmax(logits)[..., 5].mean(), logits


@pytest.mark.ci
def test_model_with_held_weights_computes_the_same():
    differentiate = jax.jit(jax.grad(loss, has_aux=True), static_argnums=(1, 2))
    ahead, inside = (differentiate(params_of(2), REPRESENTATIONS["int4 rotated"], hold) for hold in (True, False))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ahead, inside)
    same(*(jax.tree.map(lambda leaf: leaf == 0, gradient) for gradient, _ in (ahead, inside)))


@pytest.mark.slow
def test_olmo2_with_held_weights_computes_the_same(monkeypatch):
    model = replace(tiny.MODEL, family="olmo2", init_std=0.3)
    monkeypatch.setattr(tiny, "MODEL", model)
    params = jax.jit(Decoder(model).init)(jax.random.key(3), jnp.zeros((1, 4), jnp.int32), CTX)["params"]
    representation = REPRESENTATIONS["int4 rotated"]
    ahead, inside = (jax.grad(loss, has_aux=True)(params, representation, hold) for hold in (True, False))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ahead, inside)


@pytest.mark.slow
@each
def test_model_with_held_weights_computes_the_same_bit_for_bit(representation):
    with jax.disable_jit():  # operation by operation: a compiler rounds differently by what stands around it
        ahead, inside = (
            jax.grad(loss, has_aux=True)(params_of(2), representation, hold=hold) for hold in (True, False)
        )
    same(ahead, inside)


@parametrize("name", ["int4 rotated", "top50"], default=1)
def test_stacked_is_one_by_one(name, monkeypatch):
    stacked = jax.jit(lambda p: project_params(p, REPRESENTATIONS[name], CTX))(params_of(3))
    monkeypatch.setattr(projected, "STACKED_BELOW", 0)
    same(jax.jit(lambda p: project_params(p, REPRESENTATIONS[name], CTX))(params_of(3)), stacked)


def test_only_kernels_are_held():
    marked = project_params(params_of(2), DENSE, CTX)
    leaves = jax.tree_util.tree_leaves_with_path(marked, is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight))
    for path, leaf in leaves:
        assert isinstance(leaf, ProjectedWeight) == (path[-1].key == "kernel"), path


def test_layers_draw_noise_of_their_own():
    """One key a step, yet no two kernels, and no two layers of one, get the same noise."""
    shapes = {"query": (2, 4, 4), "key": (2, 4, 4), "up": (2, 4, 6)}
    params = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
    ctx = CTX._replace(key=jax.random.key(0))
    projected = jax.jit(lambda p: project_params(p, Representation(operand("noise2")), ctx))(params)
    firsts = [float(layer[0, 0]) for leaf in jax.tree.leaves(projected) for layer in leaf]
    assert len(set(firsts)) == 6
