"""Files of a user's formats, loaded as experiments are, and runs of what they define."""

import importlib.util
import itertools
import sys

from capscale.estimators import StraightThrough
from capscale.representation import Operand, Representation
from support import tiny

FORMAT = '''\
"""A format of the user's, in an experiment of its own."""

import jax.numpy as jnp
import numpy as np
from dataclasses import dataclass
from functools import cached_property

import helpers
from helpers import offset as shift, TABLE
from capscale.formats.base import Projection

SCALE = 4
UNUSED = 7
LEVELS = np.array([1.0, 2.0])
EXTRA = []
EXTRA.append(3)
KINDS = {"half": lambda x: x / 2}
SIZES = (8, 12)


def largest(x):
    return jnp.max(jnp.abs(x), axis=-1, keepdims=True) / SCALE


class Base:
    @property
    def bits(self):
        return 1.0


@dataclass(frozen=True)
class Mine(Base):
    """The sign of every value."""

    width: int = 3

    @property
    def scope(self):
        return "row"

    def project(self, x, ctx):
        scale = largest(x) + LEVELS[0] + len(EXTRA) + KINDS["half"](1)  # never negative
        return Projection(jnp.sign(x) * scale + shift(x) + helpers.bias(1) + TABLE[0])

    @cached_property
    def late(self):
        from helpers import hidden

        return hidden


def runs(ladder, data):
    return [SIZES, UNUSED, Mine()]
'''
HELPERS = """\
FACTOR = 2
OTHER = 5
TABLE = [1, 2]
hidden = 6

def offset(x):
    return x * FACTOR

def bias(x):
    return inner(x) + 1

def inner(x):
    return x

def unused():
    return OTHER
"""
numbers = itertools.count()


def loading(tmp_path, monkeypatch):
    """Imports a format's file as an experiment is, with the module of helpers beside it; gives its module."""

    def load(text=FORMAT, helpers=HELPERS, name="mine"):
        folder = tmp_path / str(next(numbers))  # Python goes by times and sizes when it reads what it compiled
        folder.mkdir()
        (folder / "helpers.py").write_text(helpers)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        monkeypatch.delitem(sys.modules, "helpers", raising=False)
        importlib.invalidate_caches()
        spec = importlib.util.spec_from_file_location(f"capscale_experiment_{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def run_of(format):
    """Its id is known from here on, whatever becomes of the modules."""
    run = tiny.run(representation=Representation(Operand(format, StraightThrough())))
    assert run.run_id
    return run


def replaced(text, old, new):
    assert old in text
    return text.replace(old, new)
