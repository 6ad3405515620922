"""Distance of held weights from their masters, by itself and relative, and the share of gradients that pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard
from support import tiny
from support.cases import parametrize

from capscale.estimators import ForwardMask
from capscale.formats import catalog
from capscale.formats.base import Context
from capscale.formats.rotation import random_signs
from capscale.gaussian_mse import gmse
from capscale.models.compression import mask_pass_rate, weights_distance, weights_error
from capscale.models.initial import initial_params
from capscale.models.projected import kernels_of, project_params
from capscale.representation import DENSE, Operand, Representation, operand

BLOCK = 8
CTX = Context(jnp.float32(1), None)
REPRESENTATIONS = {
    "dense": DENSE,
    "int2": Representation(operand("int2")),
    "int2 rotated": Representation(operand("int2"), hadamard=BLOCK),
    "int2 rotated, signs": Representation(operand("int2"), hadamard=BLOCK, signs=5),
    "int2 both, rotated": Representation(operand("int2"), operand("int4"), BLOCK),
    "top50 forward mask": Representation(Operand(catalog.find("top50"), ForwardMask())),
}


def measured(representation, params):
    held, vjp_to_master = jax.vjp(lambda p: project_params(p, representation, CTX), params)
    return (
        weights_distance(params, held, representation),
        weights_error(params, held, representation),
        mask_pass_rate(params, held, vjp_to_master, representation),
    )


def rotated(rows, representation, back=False):
    if representation.hadamard is None:
        return rows
    seed = representation.signs
    signs = np.ones(rows.shape[-1]) if seed is None else np.array(random_signs(seed, rows.shape[-1]))
    rows = rows if back else rows * signs
    blocks = rows.reshape(*rows.shape[:-1], -1, BLOCK) @ (hadamard(BLOCK) / np.sqrt(BLOCK))
    return blocks.reshape(rows.shape) * (signs if back else 1)


def by_hand(representation, params):
    """In float64, layer by layer: project the rotated rows, rotate back, compare; ask the estimator."""
    squares, energy, passed, count = 0.0, 0.0, 0.0, 0
    weights = representation.weights
    for kernel in kernels_of(params).values():
        for layer in np.float64(kernel):
            rows = rotated(layer.T, representation)
            projection = weights.format.project(jnp.asarray(rows, jnp.float32), CTX)
            mask = weights.backward()(jnp.asarray(rows, jnp.float32), projection)
            back = rotated(np.float64(projection.value), representation, back=True).T
            squares += np.square(back - layer).sum()
            energy += np.square(layer).sum()
            passed += layer.size if mask is None else np.float64(mask).sum()
            count += layer.size
    return np.sqrt(squares), squares / energy, passed / count


@parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("int2", "int2 rotated") else name
        for name in REPRESENTATIONS
    ],
    default=["int2 both, rotated"],
)
def test_measures_are_those_by_hand(name):
    representation = REPRESENTATIONS[name]
    params = jax.jit(partial(initial_params, tiny.MODEL, representation))(jax.random.key(4))
    distance, error, rate = jax.jit(partial(measured, representation))(params)
    expected_distance, expected_error, expected_rate = by_hand(representation, params)
    assert float(distance) == pytest.approx(expected_distance, rel=1e-5, abs=1e-12)
    assert float(error) == pytest.approx(expected_error, rel=1e-5, abs=1e-12)
    assert float(rate) == pytest.approx(expected_rate, rel=1e-5)
    if name != "dense":
        assert float(distance) > 0.1
        assert 0.02 < float(error) < 0.2
        assert 0.3 < float(rate) < 0.999


@pytest.mark.parametrize("hadamard", [None, 64])
def test_error_of_gaussian_weights_is_gmse_whatever_their_variances(hadamard):
    """Kernels, and columns of a kernel, of other scales: each has a scale of its own, so the ratio is one for all."""
    rng = np.random.default_rng(2)
    spread = np.geomspace(0.1, 1, 384)
    params = {
        name: {"kernel": jnp.asarray(scale * rng.standard_normal((1024, 384)) * spread, jnp.float32)}
        for name, scale in (("a", 1.0), ("b", 1e-3))
    }
    for name in ("int4", "int1"):
        representation = Representation(operand(name), hadamard=hadamard)
        held = project_params(params, representation, CTX)
        assert float(weights_error(params, held, representation)) == pytest.approx(format_gmse(name), rel=0.02)


def format_gmse(name):
    return gmse(catalog.find(name)).value


def test_error_of_weights_that_are_all_zero_is_none():
    params = {"a": {"kernel": jnp.zeros((4, 4))}}
    representation = Representation(operand("int4"))
    assert np.isnan(float(weights_error(params, project_params(params, representation, CTX), representation)))
