"""A text of some dozens of parts."""

import pytest
from support import texts

from capscale.data import inputs


@pytest.fixture
def small(monkeypatch):
    """Parts of 8 KiB, so that a text of some dozens has many."""
    monkeypatch.setattr(inputs, "PART", 8192)


@pytest.fixture
def book(tmp_path, small):
    return texts.write_text(tmp_path / "book.txt")
