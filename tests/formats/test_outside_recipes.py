"""Recipes round to the levels of their authors' code, torchao, Transformer Engine and qwix: digests, and exceptions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import outside

GOLDEN = json.loads((Path(__file__).parent / "outside_recipes.json").read_text())
SOME = ("te nvfp4 16x16", "torchao nvfp4", "torchao e4m3 1x128", "quartet mxfp4")


def differing(name):
    """Tensors of a pair whose levels are not theirs, but for the places that the file lists."""
    pair, tensors = outside.ours()[name], outside.tensors()
    every = np.asarray(jax.jit(jax.vmap(pair.project))(jnp.stack([pair.prepare(x) for x in tensors.values()])))
    found = set()
    for (kind, x), values in zip(tensors.items(), every, strict=True):
        theirs, levels = GOLDEN["pairs"][name][kind], outside.levels(pair, x, values).ravel()
        for place, level in theirs.get("at", {}).items():
            assert levels[int(place)] != level
            levels[int(place)] = level
        if outside.digest(levels) != theirs["theirs"]:
            found.add((name, kind))
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.ci) for name in outside.ours()]
)
def test_levels_are_theirs_but_where_a_reason_says_why_not(name):
    assert differing(name) == {place for place in outside.REASONS if place[0] == name}


def test_what_the_file_says():
    assert set(GOLDEN["pairs"]) == set(outside.ours())
    many = {
        (name, kind)
        for name, kinds in GOLDEN["pairs"].items()
        for kind, entry in kinds.items()
        if "differ" in entry and "at" not in entry
    }
    assert many == set(outside.REASONS)
    plain = {place for place in many if place[1] in ("normal", "outliers", "zeros")}
    assert {name for name, _ in plain} == {"quartet mxfp4"}, "else every level is theirs on tensors as they occur"
    assert max(GOLDEN["pairs"][name][kind]["differ"] for name, kind in plain) < 0.012 * outside.ROWS * outside.COLUMNS
    assert max(GOLDEN["int8_step"].values()) < 1e-6
    assert {*GOLDEN["versions"]} == {*("torch", "torchao", "qwix", "triton", "jax", "numpy", "transformer_engine")}


def test_another_level_is_told_from_a_rounding():
    pair, x = outside.ours()["torchao e4m3 1x128"], outside.tensors()["normal"]
    values = outside.computed(pair, x).copy()
    known = outside.digest(outside.levels(pair, x, values))
    assert outside.digest(outside.levels(pair, x, np.nextafter(values, np.float32(9)))) == known
    values[0, 0] *= np.float32(9 / 8)
    assert outside.digest(outside.levels(pair, x, values)) != known
