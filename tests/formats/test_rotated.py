"""Pruned in the given basis, quantized in a rotated one: value and gradient by hand, in float64 with the matrix H."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.linalg import hadamard
from support.cases import parametrize

from capscale.errors import UserError
from capscale.estimators import STRAIGHT_THROUGH, BRms, Clip, ForwardMask, StraightThrough, Trust
from capscale.estimators_rotated import BothRotated
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.compose import SparseQuantized
from capscale.formats.grids import Int
from capscale.formats.optimum import optimal_clip
from capscale.formats.rotated import ThenRotated
from capscale.formats.scalar import Scalar
from capscale.formats.sparse import TopK
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse
from capscale.packed import load_weights, pack_weights
from capscale.representation import Operand, Representation, linear, operand, project, project_weights

ROWS = 6


def by_hand(x, g, block, bits=3, p=0.1):
    """Value, and gradient of `sum(g value)` under both masks; p None: the mask in the given basis passes all."""
    h = np.kron(np.eye(x.shape[1] // block), hadamard(block) / np.sqrt(block))
    kept = np.abs(x) >= np.sort(np.abs(x), axis=None)[x.size // 2]
    turned = np.where(kept, x, 0) @ h
    scale = np.sqrt(np.mean(turned**2, axis=1, keepdims=True)) * optimal_clip(Int(bits)) / (2 ** (bits - 1) - 0.5)
    level = np.clip(np.floor(turned / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5
    trusted = np.abs(turned / scale - level) <= 0.5
    band = np.sqrt(np.mean(x**2)) * stats.norm.ppf(0.5 + (p or 0))
    passes = np.ones_like(kept) if p is None else np.where(kept, np.abs(x) > band, np.abs(x) < band)
    assert not trusted.all()
    return level * scale @ h, passes * (np.where(trusted, g @ h, 0) @ h)


@parametrize(("width", "block"), [(48, 16), (256, 128), (12, 4)], default=1)
@pytest.mark.parametrize("p", [0.1, None])
def test_value_and_gradient_by_hand(width, block, p):
    x, g = np.random.default_rng(block).standard_normal((2, ROWS * 4, width)).astype(np.float32)
    estimator = None if p is not None else BothRotated(STRAIGHT_THROUGH)
    value, pull = jax.vjp(
        lambda x: project(Operand(catalog.find("top50+rotated-int3"), estimator), x, NO_CONTEXT), jnp.asarray(x)
    )
    expected, gradient = by_hand(np.float64(x), np.float64(g), block, p=p)
    np.testing.assert_allclose(value, expected, atol=2e-6)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], gradient, atol=2e-6)


def test_the_two_orders_differ_and_the_seam_takes_both():
    """Weights (in, out) along `in`. A mask after the rotation leaves zeros there; this one's fill with error."""
    w = jnp.asarray(np.random.default_rng(5).standard_normal((64, 16)), jnp.float32)
    before, after = Representation(operand("top50+rotated-int3")), Representation(operand("top50+int3"), hadamard=128)
    values = [np.asarray(project_weights(w, each)) for each in (before, after)]
    expected, _ = by_hand(np.float64(w).T, np.zeros((16, 64)), 64)
    np.testing.assert_allclose(values[0], expected.T, atol=2e-6)
    turned = hadamard(64) / 8 @ values[1]
    assert np.mean(np.abs(turned) < 1e-6) == 0.5
    assert np.mean(np.abs(values[0]) < 1e-6) < 0.2
    x = jnp.asarray(np.random.default_rng(5).standard_normal((3, 64)), jnp.float32)
    np.testing.assert_allclose(linear(x, w, before), x @ values[0], atol=1e-4)


@pytest.mark.ci
def test_error_is_that_of_the_pruned_and_of_the_grid_on_what_is_left():
    """Rotated survivors are nearly Gaussian, of the energy that pruning leaves."""
    for name, scalar in (("top50+rotated-int4", "int4"), ("top80+rotated-int2", "int2")):
        found, pruned = gmse(catalog.find(name)), gmse(catalog.find(name.partition("+")[0])).value
        expected = pruned + (1 - pruned) * gmse(catalog.find(scalar)).value
        assert found.method.startswith("Monte Carlo")
        assert 0 < found.standard_error < 1e-3 * found.value
        assert abs(found.value - expected) < 4 * found.standard_error + 2e-3 * expected


def test_names():
    format = ThenRotated(TopK(0.3), Scalar(Int(2)))
    assert catalog.find("top30+rotated-int2") == format
    assert catalog.label(format) == "top30+rotated-int2"
    assert catalog.find("top30-row+rotated-int2") == format.per_row()
    assert format != SparseQuantized(format.sparse, format.rounding)
    assert operand("top30+rotated-int2 [fw+rotated trust]").estimator == BothRotated(ForwardMask(), Trust())


def test_one_bit_has_the_mask_of_rotated_weights():
    assert Representation(operand("top50+rotated-int1")).weights.estimator == BothRotated(BRms(0.1), Clip(1.3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Representation(operand("top50+rotated-int4"), hadamard=128), r"use hadamard=None, or top50\+int4"),
        (
            lambda: Representation(operand("int4"), operand("top50+rotated-int4", per_token=True), hadamard=128),
            "rotates what it keeps by itself",
        ),
        (lambda: catalog.find("top50+rotated-int4-dense-scales"), "use 'survivors'"),
        (lambda: catalog.find("int4+rotated-int4"), "A\\+B means a sparsity A"),
        (lambda: catalog.find("top50+rotated-top50"), "A\\+B means a sparsity A"),
        (lambda: catalog.find("rotated-int4"), "unknown format 'rotated-int4'"),
        (lambda: catalog.find("top50+rotated-int4").project(jnp.ones((4, 15)), NO_CONTEXT), "width 15 is odd"),
        (
            lambda: load_weights(pack_weights(jnp.ones((64, 4)), Representation(operand("2:4+rotated-int4")))),
            "no kernel",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_estimators_of_one_basis_are_refused():
    """Trust would mask the gradient of one basis by the errors of another."""
    x = jnp.ones((4, 16)).at[:, 0].set(3.0)
    for name, estimator, message in (
        ("top50+rotated-int4", Trust(), "needs a format with a grid"),
        ("top50+int4", BothRotated(), "a grid in a basis of its own"),
        ("top50", BothRotated(StraightThrough()), "a grid in a basis of its own"),
    ):
        with pytest.raises(UserError, match=message):
            jax.vjp(lambda x, name=name, of=estimator: project(operand(name, of), x, NO_CONTEXT), x)


def test_kernels_say_why_they_do_not_compute_it():
    for name in ("top50+rotated-int4", "2:4+rotated-int4"):
        format = catalog.find(name)
        assert "between pruning and the grid is left to XLA" in str(spec_of(format, BothRotated()))
