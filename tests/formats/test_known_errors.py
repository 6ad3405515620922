"""The shipped errors of the catalog: computed again, some by default and all with -m slow."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.golden import hold

from capscale.formats import Int, Scalar, catalog
from capscale.formats.known_errors import digest_of, known_error, known_errors
from capscale.gaussian_mse import computed, gmse

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "capscale" / "formats" / "data" / "gmse.json"
SAMPLE = 8


def sampled() -> set[str]:
    """Names that a commit computes again: every so many in the catalog, from a place that moves with its hash."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "0"
    exact = [name for name in catalog.FORMATS if known_errors().get(name, {}).get("standard_error") == 0]
    stride = max(len(exact) // SAMPLE, 1)
    return set(exact[int(found, 16) % stride :: stride])


CHOSEN = sampled()


def entry(name: str) -> dict[str, object]:
    found = computed(catalog.FORMATS[name])
    error = {"gmse": found.value, "standard_error": found.standard_error, "method": found.method}
    return {"format": digest_of(catalog.FORMATS[name]), **error}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in CHOSEN else pytest.mark.slow) for n in catalog.FORMATS],
)
def test_what_is_shipped_is_what_is_computed(name, regenerate):
    """To twelve digits where it is exact, or the last bit of 1, as it is a difference of such numbers; measured ones to
    five standard errors of both."""
    found = entry(name)
    if regenerate:
        hold(found, SHIPPED, name, regenerate=True)
    known = json.loads(SHIPPED.read_text())[name]
    assert {**known, "gmse": 0, "standard_error": 0} == {**found, "gmse": 0, "standard_error": 0}
    if known["standard_error"] == found["standard_error"] == 0:
        np.testing.assert_allclose(found["gmse"], known["gmse"], rtol=1e-12, atol=np.finfo(float).eps)
    else:
        both = np.hypot(known["standard_error"], found["standard_error"])
        assert 0 < abs(both) < 2e-3 * known["gmse"]
        assert abs(found["gmse"] - known["gmse"]) <= 5 * both


def test_every_format_of_the_catalog_has_one_and_nothing_else():
    assert set(known_errors()) == set(catalog.FORMATS)
    for name, format in catalog.FORMATS.items():
        assert known_errors()[name]["format"] == digest_of(format), f"{name} means something else now"


class Renamed(Scalar):
    """A class from outside that looks like one of the package's."""


def test_formats_that_are_not_listed_are_computed():
    assert known_error(catalog.find("int4")) == tuple(gmse(Scalar(Int(4))))
    assert known_error(catalog.find("int4-g48")) is None
    assert known_error(Renamed(Int(4))) is None


def test_a_changed_meaning_is_computed(monkeypatch):
    monkeypatch.setitem(known_errors(), "int4", {**known_errors()["int4"], "format": "0" * 16})
    assert known_error(replace(catalog.find("int4"))) is None
