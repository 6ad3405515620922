"""Blocks and commands of docs/checkpoints.md run in a directory of their own, one after the other."""

import re
import shlex
from pathlib import Path

import jax
import pytest

from capscale.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE, flags=re.DOTALL)
REFUSED = "# exit status 2"


@pytest.mark.ci
def test_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    statuses = []
    for kind, block in BLOCKS:
        if kind == "python":
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a user's session
                exec(compile(block, "docs/checkpoints.md", "exec"), space)
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "capscale"
            statuses.append(main(words[1:]))
            assert statuses[-1] == (2 if REFUSED in line else 0), (line, capsys.readouterr().err)
    assert statuses == [0] * 8 + [2] + [0] * 4
    out, err = capsys.readouterr()
    assert "MXFP4" in out
    assert "gguf cannot hold int4: its types are those of llama.cpp" in err
    assert not Path("refused").exists()


@pytest.mark.parametrize("layout", ["hf", "capscale", "compressed-tensors", "torchao", "gguf"])
def test_every_layout_is_on_the_page(layout):
    assert f"| `{layout}` |" in PAGE
