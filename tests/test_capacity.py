import numpy as np
import pytest

from capscale.capacity import FORMS, FRANTAR, KUMAR, LOGISTIC_ANCHORED, TANH, TANH_SATURATING, Capacity, Factor, Scaling
from capscale.capacity import law_bits as bits_of
from capscale.errors import UserError

PAPER = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def test_tanh_is_equation_3():
    for gmse in (0.3633802276, 0.0115428844, 8.7686186e-5):
        expected = np.tanh(0.41 * np.log(gmse) / np.log(0.25)) ** 1.39
        assert PAPER.rho(gmse) == pytest.approx(expected, rel=1e-13)


def test_saturation_scales_it():
    saturated = Capacity(TANH_SATURATING, (("F", 0.41), ("C", 1.39), ("Lsat", 0.84)))
    assert saturated.rho(0.1) == pytest.approx(0.84 * PAPER.rho(0.1), rel=1e-13)


def test_best_at_b_bits_is_the_rate_distortion_bound():
    assert PAPER.best(2.0) == pytest.approx(PAPER.rho(4.0**-2), rel=1e-13)
    assert bits_of(4.0**-3) == pytest.approx(3.0)


@pytest.mark.parametrize("form", [f for f in FORMS.values() if f.needs == "effective_bits"], ids=lambda f: f.name)
def test_forms_fall_with_error_and_end_at_dense(form):
    middle = tuple((p.name, float(np.sqrt(p.start[0] * p.start[1]))) for p in form.parameters)
    top = dict(middle).get("Lsat", 1.0)
    rho = Capacity(form, middle).rho(np.geomspace(1e-12, 0.99, 200))
    assert np.all(np.diff(rho) < 1e-15)
    assert np.all(rho <= top * (1 + 1e-12))
    assert rho[0] > 0.95 * top


def test_anchored_logistic_ends_at_zero():
    capacity = Capacity(LOGISTIC_ANCHORED, (("exponent", 0.7), ("scale", 5.0)))
    assert capacity.rho(1 - 1e-12) < 1e-11


def test_kumar_reads_bits_only():
    factor = Factor(np.array([np.nan]), np.array([4.0]), np.array([np.nan]))
    assert np.exp(KUMAR.log_rho({"gamma": 2.0}, factor, 0.1)[0]) == pytest.approx(1 - np.exp(-2.0))
    with pytest.raises(UserError, match="function of storage_bits"):
        Capacity(KUMAR, (("gamma", 2.0),)).rho(0.1)


def test_frantar_counts_what_is_left():
    """His law of N parameters that are not zero, and ours of N rho: the same first term of the loss."""
    numbers, sparsity, alpha, N = {"b_S": 0.7, "c_S": 0.4}, 0.75, 0.3, 1e8
    rho = np.exp(
        FRANTAR.log_rho(numbers, Factor(np.array([np.nan]), np.array([np.nan]), np.array([sparsity])), alpha)[0]
    )
    his = (0.4 + 0.6 * 0.25**0.7) * (N * 0.25) ** -alpha
    assert (N * rho) ** -alpha == pytest.approx(his, rel=1e-12)
    assert rho > 0.25


@pytest.mark.parametrize("g", [1.0, 0.25])
def test_dense_equivalent_inverts_the_loss(g):
    law = Scaling(A=400.0, alpha=0.34, B=410.0, beta=0.28, E=1.69, g=g)
    size = law.dense_equivalent(law.loss(1e9, 2e10, 0.6), 2e10)
    assert size == pytest.approx(0.6e9, rel=1e-9)
    assert law.dense_equivalent(1.7 if g == 1 else 1.69, 1e6) == np.inf  # the D term alone is above that


def test_bad_values_are_named():
    with pytest.raises(UserError, match=r"between 0 and 1, got \[1.5\]"):
        PAPER.rho(1.5)
    with pytest.raises(UserError, match="takes"):
        Capacity(TANH, (("F", 0.41),))
