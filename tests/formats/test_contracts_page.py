"""docs/contracts.md is what the formats, the contracts and the kernels say today."""

from pathlib import Path

import pytest
from capscale.kernels.project import Unsupported
from capscale.kernels.project.tpu import project as tpu
from test_conformance import SUBJECTS

from capscale.defaults import default_estimator
from capscale.formats import catalog
from capscale.fused import spec_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def contracts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import contracts_page

    contracts_page.reasons.cache_clear()
    return contracts_page


def test_the_page_is_current(contracts, regenerate):
    if regenerate:
        contracts.PAGE.write_text(contracts.page())
    assert contracts.PAGE.read_text() == contracts.page(), "run scripts/contracts_page.py, or this with --regenerate"


def test_reasons_are_those_of_the_code(contracts, monkeypatch):
    """The page follows a kernel, a contract or a format that says otherwise."""
    before = contracts.page()
    for name, format in catalog.FORMATS.items():
        spec = spec_of(format, default_estimator(format))
        if isinstance(spec, Unsupported):
            assert spec.reason in before
            assert contracts.reasons(name)["TPU"] is not None
    contracts.reasons.cache_clear()
    monkeypatch.setattr(tpu, "unsupported", lambda *_: "it rains")
    monkeypatch.setattr(SUBJECTS["int4"], "repeats", "exactly")
    after = contracts.page()
    assert "it rains" in after
    assert contracts.reasons("int4")["TPU"] == "it rains"
    assert contracts.reasons("int4")["repeats"] is None
    assert contracts.reasons("int3")["repeats"] is not None


def test_every_format_has_a_row(contracts):
    rows = [line for line in contracts.PAGE.read_text().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(catalog.FORMATS)
