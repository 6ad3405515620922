"""Sizes read off a dense curve of two slopes, and capacities with the errors of such readings."""

import numpy as np
import pytest

from capscale.analysis.equivalence import equivalents
from capscale.analysis.measure import from_dense_curve
from capscale.analysis.table import make_table

SMALLEST, D = 1e6, 1e9
LOG_N = np.arange(5.0)
DENSE = np.array([5.0, 4.0, 3.0, 2.8, 2.6])
"""Falls by 1 an e-fold over the three smallest sizes, and by 0.2 over the three largest."""


def table(dense, compressed):
    """Dense runs at e-folds of size, and compressed ones as (format, e-folds, loss)."""
    runs = [("dense", at, loss) for at, loss in zip(LOG_N, dense, strict=True)] + list(compressed)
    rows = [
        {"N": SMALLEST * np.exp(at), "D": D, "loss": loss, "weights": name, "activations": "dense"}
        for name, at, loss in runs
    ]
    return make_table(rows, "two slopes")


@pytest.mark.parametrize(
    ("loss", "at", "slope", "prolonged"),
    [
        (4.0, 1.0, -1.0, False),
        (4.5, 0.5, -1.0, False),
        (2.6, 4.0, -0.2, False),
        (2.7, 3.5, -0.2, False),
        (5.5, -0.5, -1.0, True),
        (2.5, 4.5, -0.2, True),
    ],
)
def test_a_size_is_read_off_the_curve_and_beyond_it_by_the_slope_of_its_end(loss, at, slope, prolonged):
    (found,) = equivalents(table(DENSE, [("int4", 2.0, loss)]))
    assert np.log(found.size / SMALLEST) == pytest.approx(at, abs=2e-3)
    assert found.slope == pytest.approx(slope, rel=0.01)
    assert found.prolonged is prolonged
    assert found.rho == pytest.approx(np.exp(at - 2), rel=2e-3)


STRAIGHT = 5.0 - 0.5 * LOG_N


def runs_that_depart(name, off):
    """Two runs of a format of capacity e^-1/2, in the midst of the curve, with losses that much above its own."""
    return [(name, at, 5.0 - 0.5 * (at - 0.5) + o) for at, o in zip((2.0, 3.0), off, strict=True)]


def test_resamples_of_two_runs_reach_beyond_them():
    """Where departures cancel at each size, what formats share is none: draws are means of two runs, widened by
    sqrt(2); without it none would lie beyond either of the two."""
    d = 0.02
    found = from_dense_curve(
        table(STRAIGHT, runs_that_depart("int4", (d, -d)) + runs_that_depart("int2", (-d, d))), resamples=300, seed=0
    )
    assert found is not None
    np.testing.assert_allclose(found.rho, np.exp(-0.5), rtol=1e-3)
    off = np.abs(np.log(found.draws / found.rho)).max(axis=0)
    reach = d / 0.5  # of the logarithm of a size
    np.testing.assert_array_less(1.2 * reach, off)
    np.testing.assert_array_less(off, np.sqrt(2) * reach * 1.001)


def test_what_formats_of_one_size_share_moves_them_together():
    """It is put down to the dense runs of that size, which all formats are compared with."""
    d = 0.02
    found = from_dense_curve(
        table(STRAIGHT, runs_that_depart("int4", (d, -d)) + runs_that_depart("int2", (d, -d))), resamples=400, seed=0
    )
    assert found is not None
    correlation = np.corrcoef(np.log(found.draws).T)[0, 1]
    assert correlation > 0.3
