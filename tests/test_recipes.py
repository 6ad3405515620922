"""Recipes as their sources say them, and names of gradients in and out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from capscale.errors import UserError
from capscale.estimators import STRAIGHT_THROUGH
from capscale.formats.catalog import FORMATS, find
from capscale.formats.rotation import random_signs
from capscale.gradient_names import find_gradients, gradients_name
from capscale.gradients import DENSE_GRADIENTS, BackwardProduct, Gradients
from capscale.policy_names import find_representation, representation_name
from capscale.recipes import RECIPES, backward_only, find_recipe, forward_only
from capscale.representation import DENSE, Representation, linear

E4M3 = jnp.float8_e4m3fn
RNG = np.random.default_rng(2)
X = jnp.asarray(RNG.standard_normal((1, 128, 128)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((128, 256)), jnp.float32)
G = jnp.asarray(RNG.standard_normal((1, 128, 256)) * np.exp(RNG.standard_normal((1, 128, 256))), jnp.float32)


def pull(representation):
    y, back = jax.vjp(lambda x, w: linear(x, w, representation, gradients_key=jax.random.key(0)), X, W)
    return y, *back(G)


def int8(rows):
    scale = np.abs(np.float64(rows)).max(axis=-1, keepdims=True) / 127
    return np.round(rows / scale) * scale


def e4m3(rows, height):
    """Tiles of `height` x 128 under one scale each, the largest magnitude over 448."""
    tiles = np.float64(rows).reshape(rows.shape[0] // height, height, rows.shape[1] // 128, 128)
    scale = np.abs(tiles).max(axis=(1, 3), keepdims=True) / 448
    return (np.float64(np.asarray(tiles / scale, np.float32).astype(jnp.float8_e4m3fn)) * scale).reshape(rows.shape)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-3 * np.abs(expected).max())


@pytest.mark.ci
def test_int8_rounds_six_operands_by_row():
    """torchao's three products of int8 rows: each operand along what its product sums over, of what was given."""
    x, w, g = np.float64(X[0]), np.float64(W), np.float64(G[0])
    y, into_x, into_w = pull(find_recipe("int8-training"))
    close(y[0], int8(x) @ int8(w.T).T)
    close(into_x[0], int8(g) @ int8(w).T)
    close(into_w, int8(x.T) @ int8(g.T).T)


def test_deepseek_rounds_tiles_once_and_activations_again():
    x, w, g = np.float64(X[0]), np.float64(W), np.float64(G[0])
    y, into_x, into_w = pull(find_recipe("deepseek-fp8"))
    forward_x, forward_w = e4m3(x, 1), e4m3(w, 128)
    close(y[0], forward_x @ forward_w)
    close(into_x[0], e4m3(g, 1) @ forward_w.T)
    close(into_w, e4m3(forward_x.T, 1) @ e4m3(g.T, 1).T)


def nvfp4(rows, height=1):
    """Transformer Engine's definition: E4M3(max / 6 * s) of `height` x 16 values, s = 448 * 6 / max of the tensor."""
    blocks = np.float64(rows).reshape(rows.shape[0] // height, height, rows.shape[1] // 16, 16)
    outer = 448 * 6 / np.abs(blocks).max()
    scale = np.float64(np.asarray(np.abs(blocks).max(axis=(1, 3), keepdims=True) / 6 * outer, np.float32).astype(E4M3))
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    u = blocks * outer / scale
    return (np.sign(u) * levels[np.abs(np.abs(u)[..., None] - levels).argmin(axis=-1)] * scale / outer).reshape(
        rows.shape
    )


def test_nvfp4_takes_its_tiles_again_and_rotates_the_given_inputs():
    """NVIDIA's Figure 5, with gradients left dense, as those are drawn: one weight for y and dx, H16 D along tokens."""
    recipe = find_recipe("nvfp4-pretraining")
    undrawn = Gradients(
        *(replace(p, gradient=FORMATS["dense"]) for p in (recipe.gradients.inputs, recipe.gradients.weights))
    )
    y, into_x, into_w = pull(replace(recipe, gradients=undrawn))
    x, w, g = (np.asarray(a, np.float64) for a in (X[0], W, G[0]))
    tiled = nvfp4(w, 16)
    close(y[0], np.concatenate([nvfp4(x[t : t + 1]) for t in range(128)]) @ tiled)
    close(into_x[0], g @ tiled.T)
    turn = np.kron(np.eye(8), np.diag(random_signs(0, 16)) @ hadamard(16) / 4)
    close(into_w, nvfp4(x.T @ turn) @ turn.T @ g)


def test_only_gradients_are_rounded_by_chance_in_nvfp4_pretraining():
    recipe = find_recipe("nvfp4-pretraining")
    assert recipe.gradients.inputs.operand == FORMATS["dense"], "one quantized weight for both directions"
    assert recipe.weights.format == FORMATS["nvfp4-g16x16"]
    assert recipe.gradients.weights.source == "given"
    assert recipe.gradients.weights.hadamard == 16
    assert (recipe.gradients.weights.gradient, recipe.gradients.weights.operand) == (
        FORMATS["nvfp4-stochastic"],
        FORMATS["nvfp4"],
    )
    assert recipe.weights.estimator == STRAIGHT_THROUGH


@pytest.mark.parametrize("name", ["quartet", "mxfp4-backward"])
@pytest.mark.ci
def test_chance_at_three_quarters_has_no_bias(name):
    """The mean of draws is the gradient through the forward pass's values: nothing saturates at 3/4 of the range."""
    recipe, draws = find_recipe(name), 2000
    x, w, g = X[:, :32, :32], W[:32, :32], G[:, :32, :32]

    def both(representation, key):
        return jax.vjp(lambda x, w: linear(x, w, representation, gradients_key=key), x, w)[1](g)

    found = jax.jit(jax.vmap(lambda key: both(recipe, key)))(jax.random.split(jax.random.key(1), draws))
    for drawn, exact in zip(found, both(forward_only(recipe), None), strict=True):
        error = np.asarray(drawn.std(axis=0)) / np.sqrt(draws)
        off = np.abs(drawn.mean(axis=0) - exact)
        assert (off <= 4.5 * error + 1e-6 * np.abs(exact).max()).all()


def test_text_of_a_whole_representation():
    own = replace(find_recipe("nvfp4-pretraining"), weights=find_recipe("int8-training").weights)
    for held in (*RECIPES.values(), own, backward_only(own), Representation(gradients=SPELLED)):
        assert find_representation(representation_name(held)) == held
    assert representation_name(find_recipe("quartet")) == "quartet"
    assert representation_name(backward_only(find_recipe("quartet"))) == "dense gradients quartet"


def test_halves_of_a_recipe():
    recipe = find_recipe("quartet2")
    assert forward_only(recipe).gradients == DENSE_GRADIENTS
    assert forward_only(recipe).weights == recipe.weights
    assert backward_only(recipe).gradients == recipe.gradients
    assert backward_only(recipe).weights == DENSE.weights


SPELLED = Gradients(
    BackwardProduct(find("nvfp4-stochastic"), hadamard=16, signs=7),
    BackwardProduct(find("int8"), find("mxfp4-ragged"), "given", 32, "drawn"),
)


@pytest.mark.parametrize("gradients", [DENSE_GRADIENTS, SPELLED, *(recipe.gradients for recipe in RECIPES.values())])
def test_names_are_read_back(gradients):
    assert find_gradients(gradients_name(gradients)) == gradients


def test_names():
    assert gradients_name(DENSE_GRADIENTS) == "dense"
    assert [gradients_name(recipe.gradients) for recipe in RECIPES.values()] == list(RECIPES)
    assert gradients_name(SPELLED) == (
        "dx: nvfp4-stochastic x dense H16 signs 7, dw: int8 x mxfp4-ragged given H32 signs drawn"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_recipe("quartett"), "unknown recipe 'quartett'; closest: quartet"),
        (lambda: find_gradients("int8"), "gradients 'int8': use dense, the name of a recipe"),
        (lambda: find_gradients("dx: int8 x dense, dw: int8"), "or both products"),
        (lambda: find_gradients("dx: int99 x dense, dw: int8 x dense"), "int99"),
        (lambda: find_gradients("dx: lsq4 x dense, dw: int8 x dense"), "no learned scales"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
