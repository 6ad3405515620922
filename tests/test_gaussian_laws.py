"""Errors of formats on other laws than the normal one, against quadrature, draws and measurements."""

import itertools

import jax
import numpy as np
import pytest
from scipy import integrate, stats

from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.distributions import NORMAL
from capscale.formats.families import Laplace, Logistic, StudentT
from capscale.gaussian_mse import gmse

LAWS = [NORMAL, Laplace(), Logistic(), StudentT(5.0), StudentT(3.5)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_moments_against_quadrature(law):
    edges = np.array([-np.inf, -7.3, -2.1, -0.4, 0.0, 0.9, 3.0, 11.0, np.inf])
    m0, m1, m2 = law.moments(edges[:-1], edges[1:])
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        for power, found in enumerate((m0[i], m1[i], m2[i])):
            value, _ = integrate.quad(
                lambda x, power=power: x**power * float(law.pdf(np.array(x))), a, b, epsabs=1e-13, limit=400
            )
            assert abs(found - value) < 2e-10
    np.testing.assert_allclose([m0.sum(), m1.sum(), m2.sum()], [1, 0, 1], atol=1e-12)
    p = np.array([1e-6, 0.1, 0.5, 0.9, 1 - 1e-6])
    np.testing.assert_allclose(law.cdf(law.quantile(p)), p, rtol=1e-9)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_draws_follow_their_law(law):
    draws = law.sample(np.random.default_rng(3), (20000,))
    assert stats.kstest(draws, law.cdf).pvalue > 1e-3
    assert stats.kstest(draws * 1.1, law.cdf).pvalue < 1e-3 or isinstance(law, StudentT)


@pytest.mark.parametrize("law", LAWS[1:4], ids=lambda law: law.name)
@pytest.mark.parametrize("name", ["int4", "top50", "2:4+int4", "absmax-int4-g16", "mxfp4", "nvfp4"])
def test_other_laws_agree_with_measurement(name, law):
    format = catalog.find(name)
    rows, width = 512, 1024
    x = law.sample(np.random.default_rng(5), (rows, width)).astype(np.float32)
    values = jax.jit(lambda x: format.project(x, NO_CONTEXT).value)(x)
    errors = np.square(x - np.asarray(values, np.float64)).mean(axis=1)
    stated = gmse(format, law)
    assert np.isfinite(stated.value)
    heavy = 12 if isinstance(law, StudentT) else 5  # the variance of a squared error is barely finite there
    # Measured scales of finite rows move the mean by O(1 / width) beside the sampling error.
    assert abs(errors.mean() - stated.value) < heavy * errors.std() / rows**0.5 + 0.02 * stated.value


def test_student_t_tends_to_the_normal_law():
    """Its norming constant is a ratio of gamma functions that are both infinite beyond 342 degrees of freedom."""
    normal = gmse(catalog.find("int4")).value
    errors = [gmse(catalog.find("int4"), StudentT(df)).value - normal for df in (100.0, 1e3, 1e4, 1e5)]
    np.testing.assert_allclose(errors[:-1], np.array(errors[1:]) * 10, rtol=0.2)
