"""The code of docs/own_model.md runs, each block in a namespace of its own."""

import jax
import pytest
from support.pages import blocks

pytestmark = pytest.mark.ci

BLOCKS = blocks("own_model")


def test_the_page_has_a_block_for_every_host():
    assert len(BLOCKS) == 6


@pytest.mark.parametrize("block", BLOCKS, ids=["linen", "nnx", "equinox", "tree", "state", "decoder"])
def test_the_block_runs(block):
    if "equinox" in block:
        pytest.importorskip("equinox", reason="equinox is not installed: pip install 'capscale[equinox]'")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # a user's session
        exec(compile(block, "docs/own_model.md", "exec"), {"__name__": "page"})
