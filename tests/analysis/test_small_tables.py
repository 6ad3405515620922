"""Tables that are far too small make a report without a warning and without a number that is none, or are refused."""

import re

import numpy as np
import pytest
from support.synthetic import runs

from capscale.analysis.fit import Settings
from capscale.analysis.report import write_report
from capscale.analysis.study import study
from capscale.analysis.table import make_table
from capscale.cli.analysis_tables import print_study
from capscale.errors import UserError

NAMES = ("int1", "int2", "int4", "int8", "top50", "2:4", "2:4+int4", "e2m1", "int4 x int4", "top50 [fw]")


def small(seed: int):
    """One to five formats of any capacity, one to four sizes, one or two numbers of tokens, more or less noise."""
    random = np.random.default_rng(seed)
    names = random.choice(NAMES, random.integers(1, 6), replace=False)
    sizes = tuple(float(x) for x in random.choice([2e3, 4e3, 9e3, 2e4, 5e4], random.integers(1, 5), replace=False))
    tokens = tuple(float(x) for x in random.choice([1e6, 2e6, 4e6], random.integers(1, 3), replace=False))
    rho = {str(n): float(10 ** random.uniform(-2.5, 0.3)) for n in names}
    records = runs(rho, sizes=sizes, tokens=tokens, noise=float(10 ** random.uniform(-4, -0.5)))
    return make_table(records, "small", strict=False)


def outcome(table, directory, capsys):
    """The page and what the terminal shows, or the refusal."""
    try:
        found = study(table, settings=Settings(starts=8), resamples=10)
        page = write_report(found, directory, "x").read_text()
    except UserError as error:
        return str(error)
    print_study(found)
    return re.sub(r"base64,[^\"]*", "", page) + capsys.readouterr().out


@pytest.mark.ci
@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 20))])
def test_any_small_table(seed, tmp_path, capsys):
    text = outcome(small(seed), tmp_path, capsys)
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "In short" in text or "free numbers and small" in text


@pytest.mark.ci
def test_two_sizes_of_three_formats(tmp_path, capsys):
    """A table that printed a rank correlation of -0.866 as an order, and a capacity of 400 %, on its bound."""
    table = make_table(
        runs({"int8": 6.0, "int4": 0.5, "int2": 0.7}, sizes=(2e3, 4e3), noise=0.02), "small", strict=False
    )
    text = " ".join(outcome(table, tmp_path, capsys).split())
    assert "rho of int8 is not measured" in text
    assert "400%" not in text
    assert "rank correlation -" not in text
