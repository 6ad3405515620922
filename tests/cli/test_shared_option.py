"""Flags that say which errors runs share, and where compiled fits are kept."""

import os

import pytest

from capscale.cli.compiled import keep_compiled
from capscale.cli.fitting import parse_shared
from capscale.errors import UserError


@pytest.mark.parametrize(
    ("text", "levels"),
    [("auto", "auto"), ("none", "none"), ("size", ("size",)), ("size, run", ("run", "size")), ("cell", ("cell",))],
)
def test_levels_by_name(text, levels):
    assert parse_shared(text) == levels


@pytest.mark.parametrize("text", ["sizes", "size,,cell", "", "size,auto"])
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match="is none of run, cell, size; or write auto, or none"):
        parse_shared(text)


def test_compiled_fits_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    for name in ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "capscale" / "compiled-"))


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "capscale").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
