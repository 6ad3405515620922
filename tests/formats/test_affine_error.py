"""Errors of ranges by quadrature, against the definition: values rounded one by one, and every node a value."""

import numpy as np
import pytest

from capscale.formats.affine_error import range_error
from capscale.formats.catalog import find
from capscale.formats.distributions import NORMAL
from capscale.formats.grids import Int
from capscale.gaussian_mse import computed


def nodes(edges, count):
    points, weights = np.polynomial.legendre.leggauss(count)
    half = np.diff(edges)[:, None] / 2
    return (((edges[1:] + edges[:-1])[:, None] / 2) + half * points).ravel(), (half * weights).ravel()


def by_definition(bits, kept, size, zero_point=True):
    """Mean squared error of groups of `size` normal values in integers of `bits` sliced to `kept`.

    Over both ends by their joint density, and over a value between them by nodes between two edges of codes, each
    rounded, sliced and held against itself.
    """
    top, drop = 2**bits - 1, 2 ** (bits - kept)

    def error(x, low, scale):
        zero = np.round(-low / scale) if zero_point else -low / scale
        codes = np.clip(np.round(x / scale + zero), 0, top)
        sliced = np.minimum(np.floor((codes + drop // 2) / drop), 2**kept - 1) * drop
        return np.square(x - scale * (sliced - zero))

    kinks = np.clip(np.arange(-0.5, top + 1) / top, 0, 1)
    shares, of_share = nodes(np.union1d(np.linspace(0, 1, 17), kinks), 12)
    ranges, of_range = nodes(np.linspace(0, 17, 35), 8)
    total = 0.0
    for share, weight in zip(shares, of_share, strict=True):
        low, high, scale = -share * ranges, (1 - share) * ranges, ranges / top
        zero = np.round(share * top) if zero_point else share * top
        at = np.clip(np.arange(-0.5, top + 1) - zero, -share * top, (1 - share) * top)
        x, of_x = nodes(at, 96 // 2**bits)  # cells of few codes are wide
        x, of_x = x[:, None] * scale, of_x[:, None] * scale
        inner = np.sum(of_x * NORMAL.pdf(x) * error(x, low, scale), axis=0)
        ends = error(low, low, scale) + error(high, low, scale)
        inside = NORMAL.cdf(high) - NORMAL.cdf(low)
        both = NORMAL.pdf(low) * NORMAL.pdf(high) * ranges * (size - 1) * inside ** (size - 3)
        total += weight * np.sum(of_range * both * ((size - 2) * inner + inside * ends))
    return total


@pytest.mark.parametrize(
    ("bits", "kept"), [(4, 2), pytest.param(2, 2, marks=pytest.mark.ci), pytest.param(4, 4, marks=pytest.mark.ci)]
)
def test_errors_are_those_of_the_definition(bits, kept):
    """Of a thousand values, whose zero points fall into a tenth of the codes."""
    codes = np.arange(2**bits)
    drop = 2 ** (bits - kept)
    standing = np.minimum((codes + drop // 2) // drop, 2**kept - 1) * drop
    found = range_error(Int(bits, "unsigned"), 1024, NORMAL, True, standing.astype(float))
    assert found == pytest.approx(by_definition(bits, kept, 1024), rel=1e-9)


def test_errors_of_a_stored_minimum_are_those_of_the_definition():
    found = range_error(Int(3, "unsigned"), 48, NORMAL, False)
    assert found == pytest.approx(by_definition(3, 3, 48, zero_point=False), rel=1e-9)


def test_many_levels_have_about_the_error_of_a_uniform_one(monkeypatch):
    """`E[step^2] / 12`, to the share of cells that the ends cut; of integers of 8 bits in moments, not in seconds."""
    calls = []
    moments = type(NORMAL).moments
    monkeypatch.setattr(type(NORMAL), "moments", lambda self, a, b: calls.append(np.size(a)) or moments(self, a, b))
    found = computed(find("affine-int8")).value
    x = np.random.default_rng(0).standard_normal((4000, 1024))
    uniform = np.square(np.ptp(x, axis=1) / 255).mean() / 12
    assert found == pytest.approx(uniform, rel=0.01)
    assert sum(calls) < 3e6  # cells of all zero points together: one by one they were 160 million
