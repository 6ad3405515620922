"""GMSE against reference values, independent quadrature, and plain measurements."""

import itertools
from functools import cache

import jax
import numpy as np
import pytest
from scipy import integrate, stats

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT, Projection, per_row
from capscale.formats.compose import SparseQuantized
from capscale.formats.distributions import NORMAL, grid_error
from capscale.formats.families import SphereCoordinate, StudentT
from capscale.formats.grids import Int
from capscale.formats.optimum import optimal_clip
from capscale.formats.pattern import NM
from capscale.formats.scalar import Scalar
from capscale.formats.scale import Absmax, Rms
from capscale.formats.sparse import TopK
from capscale.gaussian_mse import Gmse, bound, effective_bits, gap, gmse, measured

REFERENCE = {  # name: (value, absolute tolerance: half a unit of its last digit)
    **{
        f"int{bits}": (value, 5e-11)
        for bits, value in enumerate(
            (0.3633802276, 0.1188460504, 0.0374396594, 0.0115428844, 0.0034952114, 0.0010400454), start=1
        )
    },
    "int7": (3.0433277e-4, 5e-12),
    "int8": (8.7686186e-5, 5e-13),
    "ternary": (0.1901740392, 5e-11),
    "lloyd4": (0.0095010080, 5e-11),
    "e2m1": (0.0126849, 5e-8),
    "e4m3": (6.987e-4, 6e-8),
    "e3m2": (2.766e-3, 5e-7),
    "e2m5": (5.412e-5, 5e-9),
    "absmax-e2m1-g16": (0.00886, 5e-6),
    "absmax-e2m1-g32": (0.01022, 5e-6),
    "mxfp4": (0.0132, 5e-5),
    "top50": (0.0713259177, 5e-11),
    "2:4": (0.1324474031, 5e-11),
    "1:2": (0.5 - 1 / np.pi, 1e-13),
    "4:8-pairs": (5 / 24, 1e-13),
    "2:4+int4": (0.13898, 5e-6),
    "higgs-d2-n16": (0.1075, 5e-4),
    "higgs-d4-n256": (0.0973, 1e-3),
}


SAMPLED = ("higgs-d4-n256",)  # for ten seconds


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SAMPLED else []) for n in REFERENCE])
def test_reference_values(name):
    value, tolerance = REFERENCE[name]
    found = gmse(catalog.find(name))
    assert abs(found.value - value) <= tolerance + 3 * found.standard_error
    assert found.standard_error < 1e-3 * found.value
    assert (found.standard_error == 0) == (not name.startswith("higgs"))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("granularity", ["row", "matrix"])
def test_noise_as_a_format_has_its_error(bits, granularity):
    noise = catalog.find(f"noise-as-int{bits}" + ("-matrix" if granularity == "matrix" else ""))
    assert noise.granularity == granularity
    assert per_row(noise) == catalog.find(f"noise-as-int{bits}")
    assert abs(gmse(noise).value / gmse(catalog.find(f"int{bits}")).value - 1) < 1e-8


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_smaller_groups_and_more_outliers_lose_less(bits):
    groups = [gmse(catalog.find(f"int{bits}-g{size}")) for size in catalog.GROUPS]
    outliers = [gmse(catalog.find(f"int{bits}-outliers{percent}")) for percent in catalog.OUTLIER_PERCENT]
    whole = gmse(catalog.find(f"int{bits}"))
    for errors in ([*groups, whole], [*reversed(outliers), whole]):
        assert [e.value for e in errors] == sorted(e.value for e in errors)
        assert all(e.standard_error == 0 for e in errors)


def test_scales_of_the_dense_row():
    dense = SparseQuantized(NM(2, 4), Scalar(Int(4)), scales_from="dense")
    assert abs(gmse(dense).value - 0.13931) < 5e-6


def test_a_grid_may_lose_more_than_everything():
    """Two bits with the scale of the largest of 640 x 640 values: capacity 0, flagged, never NaN."""
    found = gmse(Scalar(Int(2), Absmax(), "matrix"), samples=640)
    assert abs(found.value - 1.024) < 5e-4
    assert not found.has_capacity
    assert effective_bits(found.value) == 0.0
    assert gmse(catalog.find("int2")).has_capacity


# QuEST's constants, as printed; Monte-Carlo values at 6 bits and more, where the exact optima are beside them.
PRINTED = {1: 0.79788, 2: 1.49353, 3: 2.05107, 4: 2.51393, 5: 2.91609, 6: 3.27660, 7: 3.60105, 8: 3.88494}
EXACT = {6: 3.27798, 7: 3.61110, 8: 3.92220}


@pytest.mark.parametrize("bits", range(1, 9))
def test_clip_constants(bits):
    computed = optimal_clip(Int(bits))
    if bits in EXACT:
        assert abs(computed - EXACT[bits]) < 1e-5
        assert abs(computed - PRINTED[bits]) < 0.05
        assert grid_error(np.linspace(-1, 1, 2**bits) * computed, NORMAL) <= grid_error(
            np.linspace(-1, 1, 2**bits) * PRINTED[bits], NORMAL
        )
    else:
        assert abs(computed - PRINTED[bits]) < 1e-4


def test_ternary_clip_constant():
    assert abs(optimal_clip(catalog.find("ternary").grid) - 1.22401) < 1e-5


@pytest.mark.parametrize("name", ["e3m4", "e4m3", "e5m2", "e6m1", "e4m1"])
def test_no_better_scale_of_a_float_exists(name):
    grid = catalog.find(name).grid
    best = gmse(catalog.find(name)).value
    octaves = np.log2(grid.levels[-1] / np.diff(grid.levels).min())
    scan = 2.0 ** np.linspace(-2, octaves + 4, 4001)
    others = min(grid_error(grid.levels * (c / grid.levels[-1]), NORMAL) for c in scan)
    assert best <= others * (1 + 1e-9)


@cache
def projection(name):
    format = catalog.find(name)
    return jax.jit(lambda x: format.project(x, NO_CONTEXT).value)


def test_two_four_by_brute_force_order_statistics():
    """E of the two smallest squares of four, by the joint density of order statistics in one line of quadrature."""

    def integrand(x):
        tail = 2 * stats.norm.sf(x)
        pruned = stats.binom.sf(1, 3, tail)  # at least two of the other three are larger
        return 2 * x * x * stats.norm.pdf(x) * pruned

    value, _ = integrate.quad(integrand, 0, 12, epsabs=1e-13)
    assert abs(gmse(NM(2, 4)).value - value) < 1e-11


def test_top_k_then_int_by_plain_quadrature():
    format = SparseQuantized(TopK(0.5), Scalar(Int(4)))
    cut = stats.norm.ppf(0.75)
    pruned, _ = integrate.quad(lambda x: 2 * x * x * stats.norm.pdf(x), 0, cut, epsabs=1e-13)

    def lost(scale):
        def square(x):
            level = scale * (np.clip(np.round(x / scale - 0.5), 0, 7) + 0.5)
            return 2 * (x - level) ** 2 * stats.norm.pdf(x)

        edges = np.unique(np.clip([cut, *(scale * np.arange(1, 9)), 12.0], cut, 12.0))
        return sum(integrate.quad(square, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(edges))

    from scipy.optimize import minimize_scalar

    best = minimize_scalar(lost, bounds=(0.2, 0.6), method="bounded", options={"xatol": 1e-9})
    assert abs(gmse(format).value - (pruned + best.fun)) < 1e-9


@pytest.mark.parametrize("size", [4, 16, 128])
def test_rms_of_few_values_by_the_sphere(size):
    format = Scalar(Int(4), group=size)
    stated, plain = gmse(format), measured(format, NORMAL, 1024)
    assert abs(stated.value - plain.value) < 4 * plain.standard_error
    assert stated.standard_error == 0


def test_long_rows_approach_the_limit():
    for name in ("int4", "e2m1", "ternary"):
        format, limit = catalog.find(name), gmse(catalog.find(name)).value
        gaps = [abs(gmse(format, samples=k).value - limit) for k in (64, 640, 6400, 64000)]
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 1e-4 * limit
    law = SphereCoordinate(10**6)
    m0, _, m2 = law.moments(np.array([-1.0]), np.array([0.5]))
    np.testing.assert_allclose(
        [m0[0], m2[0]], [p[0] for p in NORMAL.moments(np.array([-1.0]), np.array([0.5]))][::2], rtol=1e-5
    )


def test_absmax_by_brute_force():
    """Two values sharing their largest magnitude, by a double integral."""
    format = Scalar(Int(2), Absmax(), group=2)

    def integrand(other, largest):
        scale = largest / 1.5
        level = scale * (np.clip(np.round(other / scale - 0.5), 0, 1) + 0.5)
        return 8 * (other - level) ** 2 * stats.norm.pdf(other) * stats.norm.pdf(largest)

    total = 0.0
    for low, high in ((0.0, 2 / 3), (2 / 3, 1.0)):
        total += integrate.dblquad(integrand, 0, 9, lambda m, a=low: a * m, lambda m, b=high: b * m, epsabs=1e-12)[0]
    assert abs(gmse(format).value - total / 2) < 1e-9


def test_quadrature_has_converged(monkeypatch):
    from capscale.formats import scaling

    names = ("absmax-int4-g16", "mxfp4", "mxfp4-ceil", "mxfp8-e4m3", "nvfp4")
    coarse = {name: gmse(catalog.find(name)).value for name in names}
    monkeypatch.setattr(scaling, "SPAN", 0.1)
    nodes = np.polynomial.legendre.leggauss(24)
    monkeypatch.setattr(scaling, "GAUSS_X", nodes[0])
    monkeypatch.setattr(scaling, "GAUSS_W", nodes[1])
    for name in names:
        fine = gmse.__wrapped__(catalog.find(name)).value
        assert abs(fine - coarse[name]) < (1e-9 if name != "nvfp4" else 1e-7)


def test_a_format_without_an_exact_error_is_measured():
    class Halved:
        bits, granularity = 8.0, "row"

        def project(self, x, ctx):
            return Projection(x * 0.5)

    found = gmse(Halved())
    assert found.method.startswith("Monte Carlo")
    assert abs(found.value - 0.25) < 4 * found.standard_error
    assert 0 < found.standard_error < 1e-3 * found.value


def test_every_catalog_format_respects_the_bound():
    for name, format in catalog.FORMATS.items():
        if "+" not in name and not name.startswith("higgs"):  # measured ones are covered by the conformance table
            value = gmse(format).value
            assert value >= bound(format.bits) * (1 - 1e-9) or value == 0
            assert np.isfinite(value)


def test_effective_bits_and_gap():
    assert effective_bits(0.25) == 1.0
    assert effective_bits(4.0**-3) == 3.0
    assert effective_bits(1.5) == 0.0
    assert effective_bits(0.0) == float("inf")
    np.testing.assert_array_equal(effective_bits([0.25, 1.0]), [1.0, 0.0])
    assert gap(4.0**-3, 3.5) == 0.5
    assert bound(2.0) == 1 / 16
    assert Gmse(1.0, 0.0, "exact").has_capacity is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudentT(2.0), "df > 2"),
        (lambda: StudentT(1e7), "at most 1,000,000"),
        (lambda: gmse(catalog.find("int4"), samples=1), "at least 2"),
        (lambda: Rms(-1.0), "must be above 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message):
        make()
