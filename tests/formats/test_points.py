"""Codebooks of one's own: their projection, their place in names and JSON, their kernels, and what is refused."""

import json
import os
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import costs, testing

from capscale.cli.formats import Gmse
from capscale.defaults import CODEWORDS
from capscale.errors import UserError
from capscale.formats import Vector, catalog, read_points
from capscale.formats.base import NO_CONTEXT
from capscale.formats.packing import pack, unpack
from capscale.formats.points import rounded_points
from capscale.formats.serialize import from_json, to_json
from capscale.formats.vector import codebook
from capscale.gaussian_mse import gmse
from capscale.kernel_checks import check_kernels
from capscale.testing import CHECKS, Subject, exempt

CIRCLE = [[np.cos(a), np.sin(a)] for a in np.arange(6) * np.pi / 3] + [[0.0, 0.0]]
FORMAT = Vector.of(CIRCLE)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contracts(check):
    subject = Subject(FORMAT, symmetric=False)
    if reason := exempt(check, subject):
        pytest.skip(reason)
    check(subject)


def test_the_nearest_point_is_chosen():
    x = np.random.default_rng(1).standard_normal((8, 256)).astype(np.float32)
    rms = np.sqrt(np.mean(np.float64(x) ** 2, axis=1, keepdims=True))
    normal = (x / rms).reshape(-1, 2)
    points = np.array(FORMAT.points)
    nearest = points[np.argmin(np.square(normal[:, None] - points).sum(-1), axis=1)]
    value = np.asarray(FORMAT.project(jnp.asarray(x), NO_CONTEXT).value)
    np.testing.assert_allclose(value, nearest.reshape(x.shape) * rms, rtol=1e-5)
    np.testing.assert_array_equal(unpack(pack(FORMAT, jnp.asarray(x))), value)
    assert abs(FORMAT.bits - np.log2(7) / 2) < 1e-12


def test_the_shipped_points_given_by_hand_are_the_shipped_codebook():
    own, shipped = Vector.of(codebook(2, 16)), Vector(2, 16)
    assert own != shipped
    x = jnp.asarray(np.random.default_rng(2).standard_normal((4, 64)), jnp.float32)
    np.testing.assert_array_equal(own.project(x, NO_CONTEXT).value, shipped.project(x, NO_CONTEXT).value)
    assert gmse(own).value == gmse(shipped).value
    assert own.kernel_spec() == shipped.kernel_spec()


def test_json_and_names_say_the_points():
    assert "points" not in to_json(Vector(2, 16))
    assert from_json(json.loads(json.dumps(to_json(FORMAT)))) == FORMAT
    moved = Vector.of([*CIRCLE[:-1], [0.0, 0.25]])
    assert to_json(moved) != to_json(FORMAT)
    names = {catalog.label(f) for f in (FORMAT, moved, replace(FORMAT, group=32))}
    assert len(names) == 3
    assert all(name.startswith("vq-d2-n7-") for name in names)


KIT = {
    "interpret-float32": partial(testing.check_interpreted, shapes=((5, 256),)),
    "gradient": partial(testing.check_gradient, shape=(4, 256)),
    "cuda": testing.check_cuda,
    "tpu-v5e": partial(testing.check_tpu, shapes=((64, 256),)),
}


@pytest.mark.ci
def test_kernels_are_those_of_codebooks(monkeypatch):
    monkeypatch.setattr(testing, "checks", lambda: KIT)
    monkeypatch.setattr(costs, "costs", dict)
    found = check_kernels(FORMAT, CODEWORDS, rotation=64)
    assert {found[name] for name in ("format", "interpret-float32", "gradient")} == {"passed"}


@pytest.mark.parametrize("kind", [".npy", ".json"])
def test_files_from_the_command_line(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if kind == ".npy":
        np.save("mine.npy", np.array(CIRCLE))
    else:
        (tmp_path / "mine.json").write_text(json.dumps(CIRCLE))
    assert catalog.find(f"vq@mine{kind}") == FORMAT
    assert Vector.of(read_points(tmp_path / f"mine{kind}")) == FORMAT
    assert Gmse((f"vq@mine{kind}",), json=True)() == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["gmse"] == gmse(FORMAT).value
    assert row["bits"] == FORMAT.bits


def pickled(path):
    np.save(path / "bad.npy", np.array([{"a": 1}], object), allow_pickle=True)


WRITES = {
    "absent": (lambda path: None, "no such file"),
    "of objects": (pickled, "allow_pickle"),
    "cut off": (lambda path: (path / "bad.npy").write_bytes(b"\x93NUMPY"), "bad.npy"),
    "of one axis": (lambda path: np.save(path / "bad.npy", np.ones(4)), "a table"),
    "of text": (lambda path: np.save(path / "bad.npy", np.array([["a", "b"]] * 2)), "of numbers"),
    "not finite": (lambda path: np.save(path / "bad.npy", np.array([[1, np.nan], [0, 1]])), "2.60"),
    "a pipe": (lambda path: os.mkfifo(path / "bad.npy"), "no such file"),
}


@pytest.mark.parametrize("kind", WRITES)
def test_other_files_are_refused(kind, tmp_path):
    write, message = WRITES[kind]
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "bad.npy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: catalog.find("vq@../mine.npy"), "not the plain name"),
        (lambda: catalog.find("vq@/etc/passwd"), "not the plain name"),
        (lambda: catalog.find("vq@mine.txt"), r"\.npy array or a \.json"),
        (lambda: Vector.of([[1.0, 2.0]]), "2 to 65536 points"),
        (lambda: Vector.of([[1.0, 2.0], [1.0]]), "different lengths"),
        (lambda: Vector.of([[1.0, 2.0], [1.0, 2.0 + 1e-6]]), "equal once they are rounded"),
        (lambda: Vector.of([[1e-30, 2.0], [1.0, 2.0]]), "2.-60"),
        (lambda: Vector.of([["1", "2"], ["3", "4"]]), "of numbers"),
        (lambda: Vector.of(np.zeros((2, 65))), "1 to 64"),
        (lambda: Vector(2, 3, points=((1.0, 2.0), (0.0, 1.0))), "points are 2 of 2"),
        (lambda: Vector(2, 2, points=[[1.0, 2.0], [0.0, 1.0]]), "tuple of tuples"),
        (lambda: Vector(2, 2, points=((1.0, True), (0.0, 1.0))), "numbers"),
        (lambda: Vector(2, 2, points=((1.0, 0.1), (0.0, 1.0))), "12 significant bits"),
    ],
)
def test_bad_points_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_coordinates_are_rounded_to_twelve_bits():
    (first, second), _ = rounded_points([[0.1, -3.0], [0.0, 1.0]])
    assert abs(first / 0.1 - 1) < 2.0**-12
    assert first != 0.1
    assert second == -3.0
