"""The names of `import capscale`: loaded when used, complete, and without anything heavy before."""

import subprocess
import sys

import pytest
from support.limits import LIMIT_S

import capscale


@pytest.mark.parametrize("name", capscale.__all__)
def test_every_name_is_there_and_listed(name):
    assert getattr(capscale, name) is not None
    assert name in dir(capscale)


def test_what_is_listed_is_what_is_loaded():
    assert sorted(capscale.__all__) == sorted(capscale._HOME)
    with pytest.raises(AttributeError, match="has no attribute 'compres'"):
        capscale.compres  # noqa: B018


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout


def test_importing_it_imports_nothing_heavy():
    heavy = "jax", "flax", "numpy", "scipy", "tyro", "pandas"
    assert run(f"import sys, capscale; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


@pytest.mark.ci
def test_a_tree_is_compressed_where_no_host_is_loaded():
    code = """
import flax.linen, jax.numpy as jnp, capscale
rule = (".*", capscale.Representation(capscale.operand("int4")), 0)
print(type(capscale.compress({"w": jnp.ones((8, 8))}, (rule,))).__name__)
"""
    assert run(code) == "CompressedTree\n"
