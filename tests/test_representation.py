"""The seam: exact forward, masked backward in the rotated basis, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.hadamard.orders import hadamard_matrix
from scipy.linalg import hadamard
from support.cases import parametrize

from capscale.errors import UserError
from capscale.estimators import ForwardMask, Lsq, StraightThrough, Trust
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT, Context
from capscale.formats.dense import Dense
from capscale.formats.grids import Int
from capscale.formats.rotation import random_signs
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Learned
from capscale.formats.serialize import from_json, to_json
from capscale.formats.sparse import TopK
from capscale.product import product
from capscale.representation import (
    DENSE,
    Operand,
    Representation,
    hadamard_block,
    linear,
    operand,
    project,
    project_activations,
    project_weights,
    rotated,
    rotated_back,
)

WIDTH, OUT, BLOCK = 48, 24, 16
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((3, 5, WIDTH)), jnp.float32)
W = jnp.asarray(RNG.standard_normal((WIDTH, OUT)), jnp.float32)
G = jnp.asarray(RNG.standard_normal((3, 5, OUT)), jnp.float32)
H = jnp.asarray(np.kron(np.eye(WIDTH // BLOCK), hadamard(BLOCK) / np.sqrt(BLOCK)), jnp.float32)


def test_dense_is_the_plain_product():
    np.testing.assert_array_equal(linear(X, W), jnp.matmul(X, W))
    assert str(jax.make_jaxpr(lambda x, w: linear(x, w, DENSE))(X, W)) == str(jax.make_jaxpr(product)(X, W))


def test_dense_with_a_rotation_is_still_the_plain_product():
    np.testing.assert_array_equal(linear(X, W, Representation(hadamard=128)), jnp.matmul(X, W))


@pytest.mark.parametrize(
    ("weights", "activations"),
    [("int4", "dense"), pytest.param("dense", "int4", marks=pytest.mark.slow), ("int4", "int4"), ("2:4", "top50")],
)
@pytest.mark.parametrize(
    ("rotation", "signs"),
    [pytest.param(None, None, marks=pytest.mark.slow), (BLOCK, None), (BLOCK, 7), (WIDTH, 7)],
    ids=["plain", "rotated", "signs", "one block"],
)
def test_forward_and_backward_by_hand(weights, activations, rotation, signs):
    """y = R(x) R(w) with the masks of the estimators, everything written out with the matrix D H of signs and rotation.

    The rows of the matrix are those of the identity turned, in float64 but for the rounding of what is compressed.
    """
    representation = Representation(operand(weights), operand(activations, per_token=True), rotation, signs)
    matrix = {None: np.eye(WIDTH), BLOCK: np.asarray(H), WIDTH: np.array(hadamard_matrix(WIDTH)) / np.sqrt(WIDTH)}[
        rotation
    ]
    h = jnp.asarray(np.diag([1] * WIDTH if signs is None else random_signs(signs, WIDTH)) @ matrix, jnp.float32)
    back = h.T

    def held(rows, side):
        if isinstance(side.format, Dense):
            return rows, jnp.ones_like(rows)
        projection = side.format.project(rows, NO_CONTEXT)
        mask = side.backward()(rows, projection)
        return projection.value, jnp.ones_like(rows) if mask is None else jnp.broadcast_to(mask, rows.shape).astype(
            jnp.float32
        )

    both = rotation is not None and weights != "dense" and activations != "dense"
    rotated_x = X if activations == "dense" and not both else X @ h
    rotated_w = W.T if weights == "dense" and not both else W.T @ h
    value_x, mask_x = held(rotated_x, representation.activations)
    value_w, mask_w = held(rotated_w, representation.weights)
    if not both:
        value_x = value_x if activations == "dense" else value_x @ back
        value_w = value_w if weights == "dense" else value_w @ back
    expected = value_x @ value_w.T
    y, pull = jax.vjp(lambda x, w: linear(x, w, representation), X, W)
    # The products with H round differently from the butterflies, which may move a value across a boundary.
    close = np.isclose(y, expected, rtol=1e-4, atol=1e-4).mean()
    assert close > 0.98
    into_x, into_w = pull(G)
    back_x, back_w = G @ value_w, jnp.einsum("bto,bti->oi", G, value_x)
    if not both:
        back_x = back_x if activations == "dense" else (back_x @ h) * mask_x @ back
        back_w = back_w if weights == "dense" else (back_w @ h) * mask_w @ back
    else:
        back_x, back_w = (back_x * mask_x) @ back, (back_w * mask_w) @ back
    assert np.isclose(into_x, back_x, rtol=1e-3, atol=1e-3).mean() > 0.95
    assert np.isclose(into_w, back_w.T, rtol=1e-3, atol=1e-3).mean() > 0.95


@pytest.mark.parametrize("name", ["int1", "2:4", "e2m1"])
def test_forward_is_exactly_on_the_grid_in_bfloat16(name):
    side = operand(name)
    x = X.astype(jnp.bfloat16)
    value = side.format.project(x, NO_CONTEXT).value
    np.testing.assert_array_equal(project(side, x, NO_CONTEXT), value)
    through = x + jax.lax.stop_gradient(value - x)
    if name == "int1":
        assert (through != value).any()  # what the custom rule is for


def test_projecting_weights_once_is_the_same():
    representation = Representation(operand("int4"), operand("int4"), 16)
    w, x = project_weights(W, representation), project_activations(X, representation)
    np.testing.assert_array_equal(linear(X, W, representation), jnp.matmul(x, w))


def test_weights_are_scaled_by_output_channel_and_activations_by_token():
    representation = Representation(operand("int4"), operand("int4"))
    channels = jnp.asarray(np.ones((WIDTH, 1)) * 2.0 ** np.arange(OUT), jnp.float32)
    np.testing.assert_array_equal(
        project_weights(W * channels, representation), project_weights(W, representation) * channels
    )
    tokens = jnp.asarray(np.ones(X.shape) * 2.0 ** np.arange(5)[:, None], jnp.float32)
    np.testing.assert_array_equal(
        project_activations(X * tokens, representation), project_activations(X, representation) * tokens
    )


@parametrize("hadamard", [None, 16, 48], default=[16])
@pytest.mark.parametrize(
    "name",
    [
        *("int1", "int4", "top20", "top80", "top50+int4", "top50+int4-dense-scales", "nvfp4", "higgs-d2-n16"),
        *("noise2", "noise-as-int2", "noise-as-int2-matrix"),
    ],
)
def test_no_token_sees_another(name, hadamard):
    """Forward and backward; and its own gradient passes."""
    signs = 3 if hadamard == 48 else None
    representation = Representation(DENSE.weights, operand(name, per_token=True), hadamard, signs)
    x = jnp.concatenate([X, X[..., :16]], axis=-1)  # 64 wide: whole groups

    def projected(x):
        return project_activations(x, representation, Context(key=jax.random.key(0)))

    value, pull = jax.vjp(projected, x)
    np.testing.assert_array_equal(projected(x.at[:, -1].multiply(100.0))[:, :-1], value[:, :-1])
    (gradient,) = pull(jnp.ones_like(x).at[:, -1].set(0.0))
    assert np.all(np.asarray(gradient)[:, -1] == 0)
    assert np.all(np.isfinite(gradient))
    assert np.mean(np.asarray(gradient)[:, :-1] != 0) > 0.3


@pytest.mark.parametrize("name", ["top50", "nvfp4", "top50+int4"])
def test_activations_across_tokens_are_refused(name):
    with pytest.raises(UserError, match="would let one token see others"):
        Representation(activations=Operand(catalog.find(name)))


def test_a_learned_step_gets_the_gradient_of_lsq():
    """d value / d step = level outside the grid, level - x / step inside; times 1 / sqrt(values * (2^(b-1) - 1))."""
    side = Operand(Scalar(Int(3), Learned()), Lsq())
    rows, step = W.T, jnp.full((OUT, 1), 0.4)
    g = jnp.asarray(RNG.standard_normal(rows.shape), jnp.float32)
    _, pull = jax.vjp(lambda x, s: project(side, x, Context(learned=s)), rows, step)
    into_x, into_step = pull(g)
    u = np.asarray(rows, np.float64) / np.float32(0.4)
    level = np.clip(np.floor(u) + 0.5, -3.5, 3.5)
    inside = np.abs(u) <= 3.5
    slope = np.where(inside, level - u, level) / np.sqrt(WIDTH * 3)
    np.testing.assert_allclose(into_step, (slope * np.asarray(g)).sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(into_x, np.where(inside, g, 0))
    assert not inside.all()


@pytest.mark.ci
def test_one_learned_step_for_all_tokens():
    format = Scalar(Int(4), Learned(), "matrix")
    assert format.granularity == "row"
    start = format.initial_learned(X)
    assert start.shape == format.learned_shape(X.shape) == ()
    representation = Representation(activations=Operand(format, Lsq()))
    x, g = X.reshape(-1, WIDTH), jnp.asarray(RNG.standard_normal((X.size // WIDTH, WIDTH)), jnp.float32)

    def gradient(x, g):
        return jax.grad(lambda s: jnp.sum(g * project_activations(x, representation, Context(learned=s))))(start)

    u = np.asarray(x, np.float64) / np.float64(start)
    level = np.clip(np.floor(u) + 0.5, -7.5, 7.5)
    slope = np.where(np.abs(u) <= 7.5, level - u, level) / np.sqrt(WIDTH * 7)
    np.testing.assert_allclose(gradient(x, g), (slope * np.asarray(g)).sum(), rtol=1e-4)
    parts = [gradient(x[i::2], g[i::2]) for i in range(2)]
    np.testing.assert_allclose(
        sum(parts), gradient(x, g), rtol=1e-5, err_msg="depends on how many tokens come together"
    )


def test_one_learned_step_starts_as_the_mean_over_matrices():
    format = Scalar(Int(4), Learned(), "matrix")
    stacked = jax.random.normal(jax.random.key(6), (3, 16, 8)) * jnp.float32([1, 2, 6])[:, None, None]
    each = [format.initial_learned(matrix) for matrix in stacked]
    assert format.initial_learned(stacked) == pytest.approx(np.mean(each), rel=1e-6)
    assert max(each) > 2 * min(each)


def test_a_learned_step_can_be_learned():
    """Gradient descent on the step alone finds the scale of least error from a bad start."""
    format = Scalar(Int(3), Learned(gradient_scale=False))
    rows = jnp.asarray(np.random.default_rng(1).standard_normal((1, 4096)), jnp.float32)
    side = Operand(format, Lsq())

    @jax.jit
    def loss(step):
        return jnp.mean(jnp.square(project(side, rows, Context(learned=step)) - rows))

    best = format.initial_learned(rows)
    step = best * 1.6
    for _ in range(300):
        step = step - 0.1 * jax.grad(loss)(step)
    np.testing.assert_allclose(step, best, rtol=0.05)


def test_operands_by_name():
    assert operand("top50", ForwardMask()).estimator == ForwardMask()
    assert operand("top50 [fw]") == operand("top50", ForwardMask())
    assert operand("top50", per_token=True).format == TopK(0.5, "row")
    assert operand("top50 [fw]").name(rotated=False) == "top50 [fw]"
    assert operand("top50 [b-rms 0.1]").name(rotated=False) == operand("top50").name(rotated=False) == "top50"
    assert operand("int1 [clip 1.3]").name(rotated=True) == "int1"
    assert operand("int1 [clip 1.3]").name(rotated=False) == "int1 [clip 1.3]"
    with pytest.raises(UserError, match="give one of them"):
        operand("top50 [fw]", Trust())


@pytest.mark.parametrize(("width", "block"), [(640, 128), (1792, 128), (48, 16), (96, 32), (8, 8), (12, 4)])
def test_the_largest_block_that_divides(width, block):
    assert hadamard_block(width, 128) == block


@pytest.mark.parametrize(("width", "block"), [(640, 640), (1792, 1792), (576, 576), (768, 768), (1408, 128), (44, 4)])
def test_the_largest_block_of_any_order(width, block):
    """Where the largest is 12, 20, 28 or 36 times a power of two; 11 * 128 has no such factor."""
    assert hadamard_block(width, 1792) == block
    assert hadamard_block(width, 2048) == width & -width


def test_signs_are_those_of_the_seed_and_the_width():
    """As they were first drawn: runs rest on them."""
    assert random_signs(7, 8) == (-1, -1, -1, -1, 1, -1, -1, 1)
    assert random_signs(7, 8) != random_signs(8, 8)
    assert abs(np.mean(random_signs(0, 4096))) < 4 / 64
    both = [np.array(random_signs(seed, 4096)) for seed in (0, 1)]
    assert abs(np.mean(both[0] * both[1])) < 4 / 64


@pytest.mark.parametrize("weights", ["int4", "dense"])
def test_signs_spread_an_input_that_lies_along_a_row_of_the_matrix(weights):
    x = jnp.asarray(H[3:4], jnp.float32)
    both = operand(weights), operand("int4", per_token=True)
    plain, signed = (rotated(x, Representation(*both, BLOCK, signs)) for signs in (None, 7))
    assert np.abs(plain).max() == pytest.approx(1)
    assert np.abs(signed).max() < 0.8
    representation = Representation(operand("int4"), hadamard=BLOCK, signs=7)
    np.testing.assert_allclose(rotated_back(rotated(X, representation), representation), X, atol=1e-6)


def test_a_rotation_is_told_with_its_signs():
    assert Representation(operand("int4")).rotation is None
    assert Representation(operand("int4"), hadamard=128).rotation == 128
    assert Representation(operand("int4"), hadamard=1792, signs=7).rotation == "1792 signs 7"
    described = to_json(Representation(operand("int4"), hadamard=128))
    assert "signs" not in described
    signed = Representation(operand("int4"), hadamard=128, signs=7)
    assert from_json(to_json(signed), (Representation, Operand, Trust, StraightThrough)) == signed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hadamard_block(15, 128), "width 15 is odd"),
        (lambda: Representation(hadamard=100), "power of two"),
        (lambda: Representation(hadamard=1), "power of two"),
        (lambda: Representation(hadamard=44), "power of two"),
        (lambda: Representation(operand("int4"), signs=7), "signs belong to a rotation"),
        (lambda: Representation(operand("int4"), hadamard=128, signs=-1), "at least 0"),
        (lambda: linear(X[..., :15], W[:15], Representation(operand("int4"), hadamard=128)), "width 15 is odd"),
        (lambda: operand("int4x"), "unknown format"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_equal_representations_compile_once():
    calls = []

    @jax.jit
    def count(x, w):
        calls.append(1)
        return linear(x, w, Representation(operand("int4")))

    count(X, W)
    count(X, W)
    assert len(calls) == 1
    assert hash(Representation(operand("int4"))) == hash(Representation(operand("int4")))
    assert Representation(operand("int4")) == Representation(Operand(Scalar(Int(4)), Trust()))


def test_under_scan_vmap_and_grad():
    representation = Representation(operand("2:4"), operand("int4"), 16)
    square = jnp.asarray(RNG.standard_normal((2, 3, WIDTH, WIDTH)), jnp.float32) / 7

    def run(weights):
        y, _ = jax.lax.scan(lambda x, w: (linear(x, w, representation), None), X, weights)
        return jnp.sum(y**2)

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(run)))(square)
    for i in range(2):
        value, gradient = jax.jit(jax.value_and_grad(run))(square[i])
        np.testing.assert_allclose(values[i], value, rtol=1e-5)
        np.testing.assert_allclose(gradients[i], gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_and_their_gradients(dtype):
    """In the dtype of x alone, summed in float32; the gradient of the weights is not rounded to it."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(shape) for shape in ((2, 3, 64), (64, 8), (2, 3, 8)))
    x, g, w = jnp.asarray(x, dtype), jnp.asarray(g, dtype), jnp.asarray(w, jnp.float32)

    def run(x, w, g):
        y, pull = jax.vjp(product, x, w)
        return y, *pull(g)

    y, into_x, into_w = jax.jit(run)(x, w, g)
    assert (y.dtype, into_x.dtype, into_w.dtype) == (dtype, dtype, jnp.float32)
    wide = [np.asarray(a, np.float64) for a in (x, w.astype(dtype), g)]
    for found, expected in (
        (y, wide[0] @ wide[1]),
        (into_x, wide[2] @ wide[1].T),
        (into_w, np.einsum("btm,btf->mf", wide[0], wide[2])),
    ):
        bound = 1e-6 if found.dtype == jnp.float32 else 2.0**-8
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=bound, atol=10 * bound)
    products = [eqn for eqn in jax.make_jaxpr(run)(x, w, g).eqns if eqn.primitive.name == "dot_general"]
    assert len(products) == 2  # those of the gradients; that of the value stands in the rule
    assert {operand.aval.dtype for eqn in products for operand in eqn.invars} == {jnp.dtype(dtype)}
