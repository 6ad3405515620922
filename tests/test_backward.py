"""The backward products: what each of their operands is rounded to, along which axis, and that chance has no bias."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.formats.dense import UNCOMPRESSED
from capscale.formats.rotation import random_signs
from capscale.gradients import DENSE_GRADIENTS, BackwardProduct, Gradients
from capscale.representation import (
    DENSE,
    ProjectedWeight,
    Representation,
    given_weights,
    linear,
    operand,
    project_activations,
    project_once,
    project_weights,
)

B, T, IN, OUT = 2, 32, 48, 64
RNG = np.random.default_rng(1)
X = jnp.asarray(RNG.standard_normal((B, T, IN)) * np.exp(RNG.standard_normal((B, T, 1))), jnp.float32)
W = jnp.asarray(RNG.standard_normal((IN, OUT)), jnp.float32)
G = jnp.asarray(RNG.standard_normal((B, T, OUT)) * np.exp(RNG.standard_normal((B, T, OUT))), jnp.float32)
KEY = jax.random.key(3)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def mxfp4(rows):
    """OCP MX v1.0 along the last axis, in float64: 32 values share 2^(floor(log2 max) - 2), levels of E2M1."""
    groups = np.float64(rows).reshape(*rows.shape[:-1], -1, 32)
    scale = 2.0 ** (np.floor(np.log2(np.abs(groups).max(axis=-1, keepdims=True))) - 2)
    levels = E2M1[np.abs(np.abs(groups / scale)[..., None] - E2M1).argmin(axis=-1)]
    return (np.sign(groups) * levels * scale).reshape(rows.shape)


def int8(rows):
    """One scale a row, its largest magnitude over 127; whole numbers."""
    scale = np.abs(np.float64(rows)).max(axis=-1, keepdims=True) / 127
    return np.round(rows / scale) * scale


def e4m3_blocks(rows):
    """One scale for 16 x 16 values, the largest magnitude over 448; E4M3 by its bit pattern of 3 digits."""
    blocks = np.float64(rows).reshape(*rows.shape[:-2], rows.shape[-2] // 16, 16, rows.shape[-1] // 16, 16)
    scale = np.abs(blocks).max(axis=(-3, -1), keepdims=True) / 448
    return (np.float64(np.asarray(blocks / scale, jnp.float8_e4m3fn)) * scale).reshape(rows.shape)


ORACLES = {
    "mxfp4": mxfp4,
    "absmax-mid-tread-int8": int8,
    "absmax-e4m3-g16x16": e4m3_blocks,
    "dense": np.float64,
}


def turned(rows, held):
    """Rows times signs and Hadamard blocks along the last axis, by the matrix."""
    if held.hadamard is None:
        return np.float64(rows)
    signs = np.ones(held.hadamard) if held.signs is None else np.array(random_signs(held.signs, held.hadamard))
    matrix = np.diag(signs) @ hadamard(held.hadamard) / np.sqrt(held.hadamard)
    return np.float64(rows) @ np.kron(np.eye(rows.shape[-1] // held.hadamard), matrix)


def pull(representation, x=X, w=W, g=G, key=KEY):
    """Output and gradients of x and w."""
    y, back = jax.vjp(lambda x, w: linear(x, w, representation, gradients_key=key), x, w)
    return y, *back(g)


@parametrize(
    ("first", "second", "block", "signs"),
    [
        ("mxfp4", "absmax-mid-tread-int8", 16, 5),
        ("absmax-mid-tread-int8", "mxfp4", None, None),
        ("dense", "absmax-e4m3-g16x16", 32, None),
        ("absmax-e4m3-g16x16", "dense", None, None),
    ],
    default=1,
)
def test_both_products_in_float64(first, second, block, signs):
    """dx = dy w^T along outputs and dw = x^T dy along tokens, of operands that numpy turned and rounded."""
    held = BackwardProduct(find(first), find(second), hadamard=block, signs=signs)
    other = replace(held, gradient=find(second), operand=find(first), signs=None)
    y, into_x, into_w = pull(Representation(gradients=Gradients(held, other)))
    np.testing.assert_array_equal(y, linear(X, W))
    of_g, of_other = ORACLES[first], ORACLES[second]
    expected = of_g(turned(G, held)) @ of_other(turned(W, held)).T
    np.testing.assert_allclose(into_x, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
    tokens_x, tokens_g = np.swapaxes(X, -1, -2), np.swapaxes(G, -1, -2)
    expected = np.einsum("bit,bot->io", of_g(turned(tokens_x, other)), of_other(turned(tokens_g, other)))
    np.testing.assert_allclose(into_w, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("source", ["projected", "given"])
@pytest.mark.parametrize("block", [None, 16])
def test_source_of_the_other_factor(source, block):
    """The forward product's values or those before it rounded them, in its basis, and the estimators' masks behind."""
    held = BackwardProduct(operand=find("absmax-mid-tread-int8"), source=source)
    recipe = Representation(operand("int2"), operand("int2"), block, gradients=Gradients(held, held))
    plain = replace(recipe, gradients=DENSE_GRADIENTS)
    y, into_x, into_w = pull(recipe)
    np.testing.assert_array_equal(y, pull(plain)[0])
    basis = np.kron(np.eye(IN // 16), hadamard(16) / 4) if block else np.eye(IN)
    if source == "given":
        x, w = X @ basis, basis.T @ W
    else:
        x, w = project_activations(X, plain), project_weights(W, plain)
    _, through_w = jax.vjp(lambda w: project_weights(w, plain), W)
    _, through_x = jax.vjp(lambda x: project_activations(x, plain), X)
    (expected,) = through_x(jnp.float32(np.float64(G) @ int8(np.asarray(w)).T))
    np.testing.assert_allclose(into_x, expected, atol=1e-3)
    columns = int8(np.swapaxes(np.asarray(x), -1, -2))
    (expected,) = through_w(jnp.float32(np.einsum("bit,bto->io", columns, G)))
    np.testing.assert_allclose(into_w, expected, atol=2e-3)


def test_one_quantized_weight_serves_both_directions():
    """Of 16 x 16 blocks: rounding the rounded weights along the other axis changes nothing, so dense reuses them."""
    recipe = Representation(operand("absmax-e4m3-g16x16"))
    w = project_weights(W, recipe)
    again = find("absmax-e4m3-g16x16").project(w, NO_CONTEXT).value
    np.testing.assert_allclose(again, w, rtol=1e-6)
    reused = replace(recipe, gradients=Gradients(BackwardProduct(find("mxfp4"))))
    rounded = replace(recipe, gradients=Gradients(BackwardProduct(find("mxfp4"), find("absmax-e4m3-g16x16"))))
    np.testing.assert_allclose(pull(reused)[1], pull(rounded)[1], rtol=1e-5, atol=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("mxfp4-ceil-stochastic", 16),
        pytest.param("mxfp4-ceil-stochastic", None, marks=pytest.mark.ci),
        pytest.param("absmax-mid-tread-int4-g16-stochastic", 32, marks=pytest.mark.ci),
    ],
)
def test_chance_has_no_bias(name, block):
    """The mean of 10^4 draws lies within 4 standard errors of the plain gradient, entry by entry."""
    held = BackwardProduct(find(name), find(name), hadamard=block, signs="drawn" if block else None)
    recipe = Representation(gradients=Gradients(held, held))
    x, w, g = X[:1, :, :3], W[:3, :32], G[:1, :, :32]

    def both(key):
        return pull(recipe, x, w, g, key)[1:]

    draws = 10_000
    found = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), draws))
    for drawn, exact in zip(found, pull(DENSE, x, w, g)[1:], strict=True):
        mean, error = drawn.mean(axis=0), drawn.std(axis=0) / np.sqrt(draws)
        assert (np.asarray(error) > 0).all()
        assert np.abs((mean - exact) / error).max() < 4


def test_signs_are_drawn_anew_and_cancel():
    held = BackwardProduct(operand=find("absmax-mid-tread-int8"), hadamard=16, signs="drawn")
    recipe = Representation(gradients=Gradients(held, held))
    one, same, other = (pull(recipe, key=jax.random.key(seed)) for seed in (0, 0, 1))
    exact = pull(DENSE)
    for k in (1, 2):
        np.testing.assert_array_equal(one[k], same[k])
        assert (one[k] != other[k]).any()
        np.testing.assert_allclose(one[k], exact[k], atol=0.03 * np.abs(exact[k]).max())


def test_gradient_of_a_token_is_its_own():
    """Along outputs no token sees another, and forward none ever does; tokens meet in the weights' gradient alone."""
    held = BackwardProduct(find("mxfp4"), find("mxfp4"), hadamard=32)
    recipe = Representation(gradients=Gradients(held, held))
    y, into_x, into_w = pull(recipe)
    later = X.at[:, 20:].multiply(-7.0), G.at[:, 20:].multiply(3.0)
    y_later, into_x_later, into_w_later = pull(recipe, later[0], W, later[1])
    np.testing.assert_array_equal(y[:, :20], y_later[:, :20])
    np.testing.assert_array_equal(into_x[:, :20], into_x_later[:, :20])
    assert (into_w != into_w_later).any()


@parametrize("name", ["absmax-mid-tread-int8", "absmax-mid-tread-int8-matrix", "mxfp4", "nvfp4"], default=1)
def test_sequences_are_rounded_apart(name):
    """So that the sum does not depend on which of them a device, or a micro-batch, has."""
    held = BackwardProduct(find(name), find(name))
    recipe = Representation(gradients=Gradients(held, held))
    _, into_x, into_w = pull(recipe)
    parts = [pull(recipe, X[b : b + 1], W, G[b : b + 1])[1:] for b in range(B)]
    np.testing.assert_array_equal(into_x, np.concatenate([part[0] for part in parts]))
    np.testing.assert_allclose(into_w, sum(part[1] for part in parts), rtol=1e-5, atol=1e-4)


DRAWING = BackwardProduct(find("mxfp4-ceil-stochastic"), find("mxfp4"), "given", 16, "drawn")
RECIPE = Representation(operand("int4"), operand("int4"), 16, gradients=Gradients(DRAWING, DRAWING))


@pytest.mark.ci
def test_jit_remat_vmap_and_scan_draw_the_same():
    """One key, one gradient: recomputed, mapped over keys, and inside of a scanned layer."""
    keys = jax.random.split(KEY, 2)

    def loss(x, w, key):
        return jnp.sum(linear(x, w, RECIPE, gradients_key=key) * G)

    def scanned(x, w, keys):
        total, _ = jax.lax.scan(lambda sum_, key: (sum_ + loss(x, w, key), None), jnp.float32(0), keys)
        return total

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    each = [gradient(X, W, key) for key in keys]
    assert (each[0][1] != each[1][1]).any()
    remat = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(X, W, keys[0])
    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(None, None, 0)))(X, W, keys)
    summed = jax.jit(jax.grad(scanned, argnums=(0, 1)))(X, W, keys)
    for k in (0, 1):
        np.testing.assert_array_equal(remat[k], each[0][k])
        np.testing.assert_allclose(mapped[k], np.stack([e[k] for e in each]), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(summed[k], each[0][k] + each[1][k], rtol=1e-5, atol=2e-4)


def test_projected_operands_give_the_same():
    """A train step and layers that share an input pass them in, with the values that backward products take."""
    w = ProjectedWeight(project_weights(W, RECIPE), given_weights(W, RECIPE))
    x = project_once(X, RECIPE)
    assert w.given is not None
    assert x.given is not None
    np.testing.assert_array_equal(linear(x, w, RECIPE, gradients_key=KEY), linear(X, W, RECIPE, gradients_key=KEY))

    def through(x, w):
        held = ProjectedWeight(project_weights(w, RECIPE), given_weights(w, RECIPE))
        return linear(project_once(x, RECIPE), held, RECIPE, gradients_key=KEY)

    _, back = jax.vjp(through, X, W)
    for found, expected in zip(back(G), pull(RECIPE)[1:], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_bfloat16_keeps_its_dtypes():
    held = BackwardProduct(find("mxfp4"), find("mxfp4"))
    y, into_x, into_w = pull(
        Representation(gradients=Gradients(held, held)), X.astype(jnp.bfloat16), W, G.astype(jnp.bfloat16)
    )
    assert (y.dtype, into_x.dtype, into_w.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


def test_dense_gradients_trace_the_same_program():
    plain, named = Representation(operand("int4")), Representation(operand("int4"), gradients=Gradients())
    assert plain == named
    texts = [str(jax.make_jaxpr(lambda x, w, r=r: pull(r, x, w))(X, W)) for r in (plain, named)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: linear(X[:, :24], W, Representation(gradients=Gradients(weights=BackwardProduct(find("mxfp4"))))),
            "gradient of the weights, summed over sequences of 24 tokens: group=32 does not divide 24",
        ),
        (
            lambda: linear(X, W[:, :40], Representation(gradients=Gradients(BackwardProduct(find("mxfp4"))))),
            "gradient of the inputs, summed over 40 outputs: group=32 does not divide 40",
        ),
        (
            lambda: linear(
                X[:, :15],
                W,
                Representation(gradients=Gradients(weights=BackwardProduct(find("int8"), hadamard=16))),
            ),
            "summed over sequences of 15 tokens: width 15 is odd, so no Hadamard block",
        ),
        (
            lambda: linear(X[0, 0], W, Representation(gradients=Gradients(weights=BackwardProduct(find("int8"))))),
            r"inputs of shape \(48,\) have no axis of tokens",
        ),
        (lambda: linear(X, W, RECIPE), "need a PRNG key: linear"),
        (
            lambda: linear(X, ProjectedWeight(W), RECIPE, gradients_key=KEY),
            "takes the weights as they were before they were projected",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_weights_that_stay_dense_are_given_already():
    held = BackwardProduct(UNCOMPRESSED, find("mxfp4"), "given")
    assert given_weights(W, Representation(gradients=Gradients(held))) is None
