"""Decoders whose layers are held in different representations, against layers applied one by one."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from capscale.errors import UserError
from capscale.formats import grids, scalar, scale
from capscale.formats.base import Context
from capscale.models.assigned import Assigned, Block, assigned
from capscale.models.compression import mask_pass_rate, weights_distance, weights_error
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.llama import LlamaBlock
from capscale.models.owned import add_learned, initial_format_state, next_format_state
from capscale.models.projected import (
    kernels_of,
    project_params,
    values_of,
)
from capscale.policy_names import find_policy
from capscale.representation import DENSE, Operand, Representation, operand, project_activations, project_weights

pytestmark = pytest.mark.ci

MODEL = replace(tiny.MODEL, layers=4, tied_embeddings=False, init_std=0.3)
CTX = Context(jnp.float32(1), None)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 96, (2, 17)), jnp.int32)
RULES = {
    "ends dense": ["layers/(0|3)/.*=dense", ".*=int4 x int8 hadamard 8"],
    "parts apart": ["layers/.*/mlp/.*=int4 x int4 hadamard 8", "layers/.*/(query|key)/.*=top50", ".*=int8"],
    "tables": ["embedding=int4", "head=int4 x int8 hadamard 8", "layers/2/.*=2:4", ".*=dense"],
}
both = pytest.mark.parametrize(
    "name", ["ends dense", *(pytest.param(name, marks=pytest.mark.ci) for name in ("parts apart", "tables"))]
)


def policy(name):
    held = assigned(MODEL, find_policy(RULES[name]))
    assert isinstance(held, Assigned)
    return held


def params_of(model=MODEL):
    return jax.jit(lambda key: initial_params(model, DENSE, key))(jax.random.key(3))


def alone(tree, layer):
    return jax.tree.map(lambda leaf: leaf[layer], tree)


def one_by_one(params, held, tokens) -> tuple[Any, Any]:
    """Logits of the model, a block at a time, each with parameters and representations of its own."""
    table, head = params["embedding"], params["head"]
    if not held.embedding.weights.is_dense:
        table = project_weights(table.T, held.embedding).T
    x = table[tokens]
    for layer, block in enumerate(held.layers):
        x, _ = LlamaBlock(MODEL, block).apply({"params": alone(params["layers"], layer)}, x, CTX)
    x = Decoder(replace(MODEL, layers=1)).apply({"params": params}, x, method=lambda module, x: module.final_norm(x))
    projected = head if held.head.weights.is_dense else project_weights(head.T, held.head).T
    return x, projected


@both
def test_scanned_runs_compute_what_layers_do_one_by_one(name):
    held, params = policy(name), params_of()
    x, head = one_by_one(params, held, TOKENS)
    expected = np.asarray(project_activations(x, held.head), np.float64) @ np.asarray(head, np.float64).T
    for given in (params, project_params(params, held, CTX)):
        found: Any = Decoder(MODEL, held).apply({"params": given}, TOKENS, CTX)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    dense: Any = Decoder(MODEL).apply({"params": params}, TOKENS, CTX)
    assert np.abs(dense - expected).max() > 0.1, "the policy does something"


@both
def test_each_weight_is_projected_by_its_own_rule(name):
    """And gradients of masters are those of held weights times the mask of the layer's own estimator."""
    held, params = policy(name), params_of()
    projected, pull = jax.vjp(lambda p: project_params(p, held, CTX), params)
    values = values_of(projected)
    ones = jax.tree.map(jnp.ones_like, projected)
    (pulled,) = pull(ones)
    gradients = values_of(pulled)
    for path, kernel in values_of(params).items():
        if path in ("embedding", "head"):
            (own,) = held.of(path)
            expected, mask = jax.vjp(lambda w, own=own: project_weights(w.T, own).T, kernel)
            np.testing.assert_array_equal(values[path], expected)
            np.testing.assert_array_equal(gradients[path], mask(jnp.ones_like(kernel))[0])
            continue
        if path.split("/")[-1] != "kernel":
            np.testing.assert_array_equal(values[path], kernel)
            continue
        for layer, own in enumerate(held.of(path)):
            expected, mask = jax.vjp(lambda w, own=own: project_weights(w, own), kernel[layer])
            np.testing.assert_array_equal(values[path][layer], expected)
            np.testing.assert_allclose(gradients[path][layer], mask(jnp.ones_like(expected))[0], rtol=1e-6, atol=1e-6)


def mean_loss(params, held, remat=False):
    module = Decoder(MODEL, held, remat)
    return module.apply({"params": project_params(params, held, CTX)}, TOKENS, CTX, 16, method="mean_loss")


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.ci)])
def test_layers_that_agree_are_the_uniform_model_bit_for_bit(remat):
    """The segmented scan, asked for by hand, against the scan of a lone representation."""
    uniform = Representation(operand("int4"), operand("int8", per_token=True), 8)
    block = Block(tuple((name, uniform) for name in MODEL.projections))
    found = [
        jax.jit(jax.value_and_grad(lambda p, held=held: mean_loss(p, held, remat)))(params_of())
        for held in (uniform, Assigned((block,) * MODEL.layers))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_metrics_are_of_the_compressed_weights():
    held, params = policy("tables"), params_of()
    projected, pull = jax.vjp(lambda p: project_params(p, held, CTX), params)
    masters, values = values_of(params), values_of(projected)
    pieces = [(path, slice(None)) for path in ("embedding",)]
    pieces += [(path, 2) for path in kernels_of(params)]
    distance = sum(np.square(np.float64(values[p][i] - masters[p][i])).sum() for p, i in pieces)
    rotated = project_weights(params["head"].T, replace(held.head, activations=DENSE.activations)).T
    distance += np.square(np.float64(rotated - params["head"])).sum()
    energy = sum(np.square(np.float64(masters[p][i])).sum() for p, i in [*pieces, ("head", slice(None))])
    np.testing.assert_allclose(weights_distance(params, projected, held), np.sqrt(distance), rtol=1e-4)
    np.testing.assert_allclose(weights_error(params, projected, held), distance / energy, rtol=1e-4)
    assert 0.5 < float(mask_pass_rate(params, projected, pull, held)) <= 1


LSQ = Operand(scalar.Scalar(grids.Int(4, "twos-complement"), scale.Learned(), "matrix"))
LSQ_ROWS = Operand(scalar.Scalar(grids.Int(4, "twos-complement"), scale.Learned()))


@pytest.mark.ci
def test_learned_steps_stand_beside_all_layers():
    """Of layers that learn as they start in a uniform model; zeros for the others."""
    learned = Representation(LSQ, LSQ)
    some = assigned(MODEL, (("layers/[12]/.*", learned), (".*", DENSE)))
    params = jax.jit(lambda key: initial_params(MODEL, some, key))(jax.random.key(3))
    uniform = jax.jit(lambda key: initial_params(MODEL, Representation(LSQ), key))(jax.random.key(3))
    both = jax.eval_shape(lambda key: initial_params(MODEL, learned, key), jax.random.key(3))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, both)
    for path, leaf in values_of(params).items():
        if path.endswith("weights_step"):
            np.testing.assert_array_equal(leaf[1:3], values_of(uniform)[path][1:3])
        if path.endswith("_step"):
            np.testing.assert_array_equal(leaf[jnp.array([0, 3])], jnp.zeros_like(leaf[:2]))
            assert (np.asarray(leaf[1:3]) > 0).all()
        elif path.endswith("kernel"):
            np.testing.assert_array_equal(leaf, values_of(uniform)[path])
    loss, gradient = jax.value_and_grad(mean_loss)(params, some)
    assert np.isfinite(loss)
    steps = {path: leaf for path, leaf in values_of(gradient).items() if path.endswith("_step")}
    assert len(steps) == 14
    for leaf in steps.values():
        assert (np.asarray(leaf[1:3]) != 0).all()
        np.testing.assert_array_equal(leaf[jnp.array([0, 3])], jnp.zeros_like(leaf[:2]))


def test_steps_of_two_shapes_are_refused_by_name():
    held = assigned(MODEL, (("layers/1/.*", Representation(LSQ_ROWS)), (".*", Representation(LSQ))))
    with pytest.raises(UserError, match=r"layers/attention/key/weights_step: formats of its layers own .* \(8, 1\)"):
        jax.eval_shape(lambda: add_learned(params_of(), held))


@pytest.mark.ci
def test_masks_move_in_their_own_layers_alone():
    held = assigned(MODEL, (("layers/1/.*", Representation(operand("rigl50-every1"))), (".*", DENSE)))
    params = params_of()
    state = initial_format_state(params, held)
    assert state.keys() == kernels_of(params).keys()
    gradient = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)
    moved = next_format_state(state, params, gradient, held, step=jnp.int32(1), progress=jnp.float32(0.1))
    path = "layers/mlp/up/kernel"
    assert np.asarray(state[path][1]).mean() == 0.5
    assert (moved[path][1] != state[path][1]).any()
    np.testing.assert_array_equal(moved[path][jnp.array([0, 2, 3])], state[path][jnp.array([0, 2, 3])])
    values = values_of(project_params(params, held, CTX, moved))[path]
    np.testing.assert_array_equal(values[1] != 0, np.swapaxes(moved[path][1], -1, -2))
    np.testing.assert_array_equal(values[2], params["layers"]["mlp"]["up"]["kernel"][2])


def test_noise_differs_from_layer_to_layer():
    held = assigned(MODEL, (("layers/0/.*", DENSE), (".*", Representation(operand("noise2"), operand("noise2")))))
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), params_of()["layers"])
    params = params_of() | {"layers": same}
    values = values_of(project_params(params, held, CTX._replace(key=jax.random.key(0))))["layers/mlp/up/kernel"]
    assert len({float(layer[0, 0]) for layer in values}) == 4
