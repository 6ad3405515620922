"""BitNet b1.58 by its published formulas, in numpy: weights, activations, the layer's product and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from capscale.estimators import StraightThrough
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.gaussian_mse import gmse
from capscale.representation import Representation, linear, operand

ACTIVATIONS = operand("absmax-mid-tread-int8", per_token=True)


def weight_quant(w, gamma):
    """arXiv 2402.17764, equations 1 to 3: RoundClip(W / gamma, -1, 1), here times gamma again."""
    return np.clip(np.round(w / gamma), -1, 1) * gamma


def activation_quant(x):
    """Per token to [-127, 127] by the largest magnitude, and back."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.round(x / scale) * scale


def weights(shape=(64, 48), seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


STEPS = {
    "ternary-mean": lambda w: np.mean(np.abs(w.astype(np.float64))),
    "ternary-median": lambda w: np.median(np.abs(w)),
}


@pytest.mark.parametrize("name", STEPS)
def test_weights_are_those_of_the_formula(name):
    w = weights((63, 47))  # an odd number of values, whose median is one of them
    held = np.asarray(find(name).project(jnp.asarray(w.T), NO_CONTEXT).value).T
    np.testing.assert_allclose(held, weight_quant(w, STEPS[name](w)), rtol=1e-6)
    assert set(np.unique(np.sign(held))) == {-1, 0, 1}


@pytest.mark.parametrize("name", [*STEPS, "ternary-matrix [straight-through]"])
def test_the_layer_is_the_formulas_product_and_passes_gradients_straight_through(name):
    w, x = weights((64, 48)), np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    representation = Representation(operand(name), ACTIVATIONS)
    assert representation.weights.estimator == StraightThrough()
    step = STEPS[name](w) if name in STEPS else 1.2240 * np.sqrt(np.mean(w.astype(np.float64) ** 2))
    if name == "ternary-median":  # of an even number of values: the greater of the two in the middle
        step = np.sort(np.abs(w).ravel())[w.size // 2]
    expected = activation_quant(x) @ weight_quant(w, step)
    np.testing.assert_allclose(linear(jnp.asarray(x), jnp.asarray(w), representation), expected, rtol=2e-4, atol=1e-4)
    g = np.random.default_rng(2).normal(size=(5, 48)).astype(np.float32)
    _, pull = jax.vjp(lambda x, w: linear(x, w, representation), jnp.asarray(x), jnp.asarray(w))
    dx, dw = pull(jnp.asarray(g))
    np.testing.assert_allclose(dw, activation_quant(x).T @ g, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(dx, g @ weight_quant(w, step).T, rtol=2e-4, atol=1e-4)


def error_of(step):
    """Mean squared error of ternary levels at a step, by quadrature over N(0, 1)."""
    inside = quad(lambda x: x * x * norm.pdf(x), -step / 2, step / 2)[0]
    return inside + 2 * quad(lambda x: (x - step) ** 2 * norm.pdf(x), step / 2, 12)[0]


def test_gaussian_errors_are_those_of_quadrature():
    best = minimize_scalar(error_of, bounds=(0.8, 1.8), method="bounded", options={"xatol": 1e-10})
    assert best.x == pytest.approx(1.2240, abs=5e-5)
    steps = {"ternary-mean": np.sqrt(2 / np.pi), "ternary-median": norm.ppf(0.75), "ternary-matrix": best.x}
    for name, step in steps.items():
        closed = 1 - 4 * step * norm.pdf(step / 2) + 2 * step**2 * norm.sf(step / 2)
        assert gmse(find(name)).value == pytest.approx(error_of(step), rel=1e-9)
        assert closed == pytest.approx(error_of(step), rel=1e-9)
