"""The text that every Python carries."""

import hashlib
import subprocess
import sys

import pytest
from support.limits import LIMIT_S

from capscale.data import stdlib
from capscale.data.corpus import load_corpus


@pytest.fixture(scope="module")
def prose() -> bytes:
    return stdlib.standard_library_text()


def test_size_and_kind(prose):
    assert 1_500_000 < len(prose) < 3_000_000
    letters = sum(chr(byte).isalpha() or byte == 0x20 for byte in prose)
    assert letters / len(prose) > 0.8
    assert prose.decode().count("the ") > 10_000


@pytest.mark.ci
def test_same_in_another_process_whatever_the_hash_seed_and_warning_flags(prose):
    code = (
        "import hashlib; from capscale.data.stdlib import standard_library_text as t; "
        "print(hashlib.sha256(t()).hexdigest())"
    )
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", code]
    environment = {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    assert done.stdout.strip() == hashlib.sha256(prose).hexdigest()


def test_docstrings_come_in_source_order_and_broken_files_give_nothing(tmp_path):
    source = tmp_path / "module.py"
    source.write_text('"""First.\n\n    indented"""\nclass A:\n    """Second."""\n    x = "not one"\n')
    assert list(stdlib._docstrings(source)) == ["First.\n\nindented", "Second."]
    source.write_text("def (:")
    assert list(stdlib._docstrings(source)) == []
    source.write_bytes(b"x = '\0'")
    assert list(stdlib._docstrings(source)) == []


def test_is_the_default_text(prose, monkeypatch):
    monkeypatch.setattr("capscale.data.corpus.standard_library_text", lambda: prose)
    corpus = load_corpus(None)
    assert corpus.id.name == "python-standard-library"
    assert corpus.id.sha256 == hashlib.sha256(prose).hexdigest()
