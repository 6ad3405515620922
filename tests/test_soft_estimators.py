"""Estimators that are more than booleans: a floating mask multiplies, a gradient of one's own may read the gradient."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.errors import UserError
from capscale.estimators import Both, StraightThrough, Trust
from capscale.estimators_rotated import BothRotated
from capscale.formats import NM, Int, Scalar, SparseQuantized, catalog
from capscale.formats.base import NO_CONTEXT
from capscale.fused import spec_of
from capscale.gaussian_mse import pass_rate
from capscale.representation import Operand, Representation, linear, project

X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 64)), jnp.float32)
G = jnp.asarray(np.random.default_rng(1).standard_normal((8, 64)), jnp.float32)
INT4 = Scalar(Int(4))


@dataclass(frozen=True)
class Constant:
    """The same factor everywhere."""

    factor: float
    dtype: str = "float32"

    def __call__(self, x, projection):
        return jnp.full(x.shape, self.factor, self.dtype)


@dataclass(frozen=True)
class Dsq:
    """DSQ (arXiv 1908.05033): the derivative of a tanh between levels, steep halfway between them."""

    sharpness: float = 2.0

    def __call__(self, x, projection):
        between = 1 - 2 * jnp.minimum(projection.error_in_steps, 0.5)  # 0 halfway between levels, 1 on one
        top = self.sharpness / jnp.tanh(jnp.float32(self.sharpness))
        return top / jnp.square(jnp.cosh(self.sharpness * between))


@dataclass(frozen=True)
class Ewgs:
    """EWGS (arXiv 2104.00903): gradients grow by the sign of their product with the error of the level."""

    delta: float = 0.2

    def __call__(self, x, projection):
        return

    def residuals(self, x, projection) -> Any:
        return (x - projection.value.astype(jnp.float32)) / projection.step

    def pull(self, residuals: Any, g):
        return (g * (1 + self.delta * jnp.sign(g) * residuals)).astype(g.dtype)


def gradient(estimator, format=INT4, x=X, g=G):
    return jax.jit(lambda x, g: jax.vjp(lambda x: project(Operand(format, estimator), x, NO_CONTEXT), x)[1](g)[0])(x, g)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_floating_mask_multiplies(dtype):
    g = G.astype(dtype)
    np.testing.assert_array_equal(gradient(Constant(0.5), x=X.astype(dtype), g=g), g / 2)
    np.testing.assert_array_equal(gradient(Constant(0.0), x=X.astype(dtype), g=g), 0 * g)
    assert gradient(Constant(0.5), x=X.astype(dtype), g=g).dtype == g.dtype


def test_a_mask_of_other_numbers_is_refused():
    with pytest.raises(UserError, match="gives a mask of int32; return booleans, or floats"):
        gradient(Constant(1, "int32"))


def test_factors_join_masks():
    format = SparseQuantized(NM(2, 4), INT4)
    keep = format.project(X, NO_CONTEXT).keep
    np.testing.assert_array_equal(gradient(Both(StraightThrough(), Constant(0.5)), format), np.where(keep, G / 2, G))
    np.testing.assert_array_equal(gradient(Both(Constant(0.5), Constant(0.25)), format), np.where(keep, G / 8, G / 2))
    trusted = np.where(gradient(Both(StraightThrough(), Trust()), format) != 0, G / 2, 0)
    np.testing.assert_array_equal(gradient(Both(Constant(0.5), Trust()), format), trusted)
    rotated = catalog.find("top50+rotated-int4")
    np.testing.assert_allclose(
        gradient(BothRotated(StraightThrough(), Constant(0.5)), rotated), np.asarray(G) / 2, rtol=1e-4, atol=1e-5
    )


def test_no_kernel_takes_a_factor_for_a_bit():
    assert "multiplies the gradient" in str(spec_of(INT4, Dsq()))
    assert pass_rate(Operand(INT4, Constant(0.5))) == pytest.approx(0.5)


@pytest.mark.parametrize("estimator", [Dsq(), Ewgs()], ids=lambda e: type(e).__name__)
def test_soft_quantizers_train(estimator):
    """They move the loss down, and otherwise than a straight-through gradient does."""
    target = X @ jnp.asarray(np.random.default_rng(2).standard_normal((64, 8)), jnp.float32)

    def trained(estimator):
        representation = Representation(Operand(INT4, estimator))

        @jax.jit
        def step(w):
            loss, slope = jax.value_and_grad(lambda w: jnp.mean((linear(X, w, representation) - target) ** 2))(w)
            return loss, w - 0.05 * slope

        w, losses = jnp.asarray(np.random.default_rng(3).standard_normal((64, 8)), jnp.float32), []
        for _ in range(20):
            loss, w = step(w)
            losses.append(float(loss))
        return losses

    losses = trained(estimator)
    assert losses[-1] < losses[0] / 2
    assert losses[-1] != trained(StraightThrough())[-1]
