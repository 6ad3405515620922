"""How many steps the solver takes: what makes it fast where residuals lie beyond delta, and in valleys that bend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.synthetic import TRUTH, rho_of

from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.solver import second_derivative
from capscale.analysis.table import make_table


def table_of(ratios, noise=0.004):
    """Four sizes, four formats; noise well above the default delta, .001."""
    random = np.random.default_rng(0)
    rows = [
        {"N": N, "D": r * N, "loss": float(TRUTH.loss(N, r * N, rho_of(w))) + random.normal(0, noise), "weights": w}
        for N in (3e7, 1e8, 3e8, 1e9)
        for r in ratios
        for w in ("dense", "int4", "int3", "int2")
    ]
    return make_table([{"run": str(i), "activations": "dense", **row} for i, row in enumerate(rows)], "simulated")


def iterations(table, starts=64):
    fitted = fit(table, LAWS["tanh"], Settings(starts=starts))
    random = np.random.default_rng(1)
    begin = random.uniform(*np.array([p.start for p in fitted.problem.parameters]).T, size=(starts, fitted.z.size))
    return fitted.solve(fitted.batch(begin)).iterations


def test_residuals_beyond_delta_are_left_their_curvature_only_where_steps_fail():
    """Reweighting alone converges linearly: a median of 62 steps here, and 24 with Newton's."""
    assert np.median(iterations(table_of((25.0, 50.0, 100.0, 200.0)))) < 40


def test_a_valley_that_bends_is_followed():
    """One ratio of D to N hardly tells alpha, beta and E apart: a median of 212 straight steps, or 54."""
    assert np.median(iterations(table_of((100.0,), noise=1e-4))) < 100


@pytest.mark.parametrize("along", [(1.0, 0.0), (0.3, -2.0)])
def test_second_derivative_along_a_step_is_that_of_the_hessian(along):
    def function(z):
        return jnp.stack([jnp.exp(z[0] * z[1]), z[0] ** 3 - z[1] ** 2])

    with jax.enable_x64(True):
        z, step = jnp.array([0.4, 0.7]), jnp.array(along)
        found = second_derivative(function, z, step)
        np.testing.assert_allclose(found, jax.hessian(function)(z) @ step @ step, rtol=1e-12)
