"""Recipes round by chance as their authors' code, microxcaling, torchao and qwix do: the counts of their draws."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import outside_draws as draws

GOLDEN = json.loads((Path(__file__).parent / "outside_draws.json").read_text())
SOME = ("quartet mxfp4",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.ci) for name in draws.draws()]
)
def test_values_are_theirs_and_as_frequent(name):
    """Two values of every number, the same in both, and shares of 10240 draws to four standard errors."""
    mine, theirs = draws.counted(draws.ours(draws.draws()[name])), draws.of_json(GOLDEN[name])
    assert draws.same_values(mine, theirs).all()
    far = draws.standard_errors(mine, theirs)
    assert far.max() < draws.STANDARD_ERRORS
    drawn = ~np.isnan(mine.other)
    assert drawn.sum() > 60, "most numbers are drawn at all"
    assert 0.7 < np.sqrt(np.mean(far[drawn] ** 2)) < 1.3, "they scatter as binomial counts do"


def test_the_file_is_of_all_pairs_and_of_as_many_draws():
    assert set(GOLDEN) == set(draws.draws())
    for entry in GOLDEN.values():
        theirs = draws.of_json(entry)
        assert theirs.most.shape == theirs.count.shape == (128,)
        assert (theirs.count * 2 >= draws.DRAWS).all()
        assert np.array_equal(theirs.count == draws.DRAWS, np.isnan(theirs.other))


def test_a_bias_of_a_fiftieth_of_a_step_and_another_level_are_told():
    """Counts off by 2 % of draws are so in the RMS and at most; a value that is a quarter larger is another one."""
    theirs = draws.of_json(GOLDEN["quartet mxfp4"])
    far = draws.standard_errors(theirs._replace(count=theirs.count - draws.DRAWS // 50), theirs)
    assert np.sqrt(np.mean(far**2)) > 1.3
    assert far.max() > draws.STANDARD_ERRORS
    moved = theirs._replace(most=theirs.most * 1.25)
    assert not draws.same_values(moved, theirs)[theirs.most != 0].any()


def test_three_values_of_a_number_are_an_error():
    three = np.tile(np.array([[1.0], [2.0], [3.0], [2.0]]), (draws.DRAWS // 4, 1))
    with pytest.raises(AssertionError, match="more than two values"):
        draws.counted(three)
