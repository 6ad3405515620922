"""Weights that do not feel their format's GMSE are told, where it is true, and not where it is not."""

import math

import pytest

from capscale.realised import COLUMNS, ERROR_FACTOR, UNTOLD, Realised

SOUND = Realised(gmse=0.2, error=0.19, error_end=0.21, pass_rate=0.94, pass_rate_end=0.93, pass_rate_gaussian=0.95)


@pytest.mark.parametrize(
    ("changes", "error", "mask"),
    [
        ({}, False, False),
        ({"error_end": 0.2 * 1.29}, False, False),
        ({"error_end": 0.2 * 1.31}, True, False),
        ({"error_end": 0.2 / 1.29}, False, False),
        ({"error_end": 0.2 / 1.31}, True, False),
        ({"error_end": 0.0}, True, False),
        ({"error": 0.9}, False, False),  # on average only, as under a schedule
        ({"pass_rate_end": 0.48}, False, False),
        ({"pass_rate_end": 0.47}, False, True),
        ({"pass_rate_end": 0.0}, False, True),
        ({"pass_rate_end": 0.47, "pass_rate_gaussian": 0.5}, False, False),
        ({"error_end": 0.0, "pass_rate_end": 0.0}, True, True),
        ({"error_end": math.nan, "pass_rate_end": math.nan}, False, False),
        ({"gmse": math.nan, "pass_rate_gaussian": math.nan}, False, False),
        ({"gmse": 0.0}, False, False),
    ],
    ids=str,
)
def test_what_is_off_is_said_and_nothing_else(changes, error, mask):
    told = SOUND._replace(**changes)
    assert (told.error_is_off, told.mask_is_off) == (error, mask)
    assert ("GMSE is not what these weights feel" in told.words) == error
    assert ("the mask passes" in told.words) == mask
    assert bool(told.words) == (error or mask)
    assert "nan" not in told.words


def test_words_hold_the_numbers():
    words = Realised(0.363, 0.15, 0.0794, 0.2, 0.093, 0.5747).words
    assert "an error of 0.079, GMSE is 0.36" in words
    assert "passes 9% of their gradients, of Gaussian weights it would pass 57%" in words
    assert ERROR_FACTOR == 1.3


def test_columns_are_the_fields():
    record = dict(zip(COLUMNS, SOUND, strict=True))
    assert Realised.of(record | {"loss": 1.0}) == SOUND
    assert Realised.of(record | {"weights_pass_rate": None})._replace(pass_rate=0.94) == SOUND
    assert all(math.isnan(value) for value in Realised.of({}))
    with pytest.raises(ValueError):
        Realised.of(record | {"weights_gmse": "low"})


def test_mean_is_over_those_that_have_a_number():
    other = SOUND._replace(error_end=0.41, pass_rate=math.nan)
    mean = Realised.mean([SOUND, other])
    assert (mean.error_end, mean.pass_rate, mean.gmse) == (pytest.approx(0.31), 0.94, 0.2)
    assert all(math.isnan(value) for value in UNTOLD)
    assert UNTOLD.words == ""
