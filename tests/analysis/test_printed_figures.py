"""The printed matrices as they are held: their panels agree, and the transcription does where that is there."""

import csv
from pathlib import Path

import numpy as np
import pytest

from capscale.analysis.factorization import product
from capscale.analysis.printed import printed

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "printed"
FILES = {
    "2b": "fig2b_weight_x_activation_sparsity",
    "6": "fig6_weight_bits_x_activation_bits",
    "7": "fig7_bits_x_sparsity_quest",
    "9": "fig9_sparsity_x_bits_absmax",
}


def test_every_printed_figure_is_there():
    assert set(printed()) == set(FILES)
    assert [figure.deviation is not None for figure in printed().values()] == [False, False, True, False]


@pytest.mark.parametrize("figure", FILES)
def test_panels_agree_but_for_rounding(figure):
    """The paper's products and errors come from numbers before they were rounded to two decimals."""
    shown = printed()[figure]
    found = product(shown.grid)
    np.testing.assert_allclose(found.predicted, shown.product, atol=0.0101)
    told = ~np.isnan(shown.error)
    np.testing.assert_allclose(np.abs(shown.grid.capacity - shown.product)[told], shown.error[told], atol=0.0101)
    assert told.sum() >= found.tested.sum()


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there: the transcription of the paper's figures")
@pytest.mark.parametrize("figure", FILES)
def test_the_panels_are_as_transcribed(figure):
    shown = printed()[figure]
    panels = {"true": shown.grid.capacity, "approx_printed": shown.product, "abs_error_printed": shown.error}
    if shown.deviation is not None:
        panels["true_pm"] = shown.deviation
    for panel, held in panels.items():
        with (FOLDER / f"{FILES[figure]}_{panel}.csv").open() as file:
            (_, *columns), *rows = csv.reader(file)
        assert tuple(f"{float(x):g}" for x in columns) == shown.grid.axes[1].levels
        assert tuple(f"{float(row[0]):g}" for row in rows) == shown.grid.axes[0].levels
        numbers = [[float(x) if x else np.nan for x in row[1:]] for row in rows]
        np.testing.assert_array_equal(held, numbers)
