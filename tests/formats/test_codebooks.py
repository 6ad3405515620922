"""The shipped codebooks: what the index says of them, measured again; and the projection onto them."""

import json
from importlib.resources import files
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.project.spec import SIGNIFICANT
from support.cases import parametrize

from capscale.formats import catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.vector import Vector, codebook
from capscale.gaussian_mse import gmse

INDEX = json.loads((files("capscale.formats") / "data" / "codebooks.json").read_text())
VECTORS = 1 << 15
each = pytest.mark.parametrize(("dimension", "size"), catalog.CODEBOOKS, ids=str)


def test_index_files_and_names_are_of_the_same_codebooks():
    shipped = {
        p.name.removeprefix("gaussian-").removesuffix(".npy") for p in (files("capscale.formats") / "data").iterdir()
    }
    names = {f"d{d}-n{n}" for d, n in catalog.CODEBOOKS}
    assert set(INDEX) == names == shipped - {"codebooks.json", "gmse.json", "lloyd_max.json"}
    assert {f"higgs-{name}" for name in names} == {
        name for name in catalog.FORMATS if name.startswith("higgs") and "-outliers" not in name
    }


@each
def test_coordinates_have_few_bits_and_codewords_are_in_order(dimension, size):
    words = codebook(dimension, size)
    assert words.shape == (size, dimension)
    mantissa, _ = np.frexp(words.astype(np.float64))
    assert np.all(mantissa * 2**SIGNIFICANT == np.round(mantissa * 2**SIGNIFICANT))
    assert np.all(np.diff(words[:, 0]) >= 0)
    assert len(np.unique(words, axis=0)) == size


@parametrize(("dimension", "size"), catalog.CODEBOOKS, default=3, ids=str)
def test_stated_errors_are_measured_ones(dimension, size):
    """On vectors that neither made nor measured the codebook."""
    words = codebook(dimension, size).astype(np.float64)
    x = np.random.default_rng(99).standard_normal((VECTORS, dimension))
    chosen = np.argmax(x @ words.T - np.square(words).sum(axis=1) / 2, axis=1)
    errors = np.square(x - words[chosen]).mean(axis=1)
    stated = INDEX[f"d{dimension}-n{size}"]
    sure = np.hypot(errors.std() / VECTORS**0.5, stated["standard_error"])
    assert abs(errors.mean() - stated["gmse"]) < 4 * sure
    assert stated["standard_error"] < 1e-3 * stated["gmse"]
    assert 4.0 ** -(np.log2(size) / dimension) < stated["gmse"], "no codebook beats the rate-distortion bound"
    centred = np.abs(np.bincount(chosen, x[:, 0] - words[chosen, 0], size)).sum() / VECTORS
    assert centred < 2 * (size / VECTORS) ** 0.5 * errors.mean() ** 0.5, "codewords are means of their cells"


def test_more_dimensions_lose_less_at_equal_bits():
    for bits, names in (
        (1, ("int1", "d2-n4", "d4-n16")),
        (2, ("lloyd2", "d2-n16", "d4-n256")),
        (3, ("lloyd3", "d2-n64", "d4-n4096")),
    ):
        errors = [INDEX[n]["gmse"] if n in INDEX else gmse(catalog.find(n)).value for n in names]
        assert all(low < high * 1.001 for high, low in pairwise(errors)), bits


@parametrize(("dimension", "size"), catalog.CODEBOOKS, default=3, ids=str)
def test_the_nearest_codeword_is_chosen(dimension, size):
    x = np.random.default_rng(1).standard_normal((8, 256)).astype(np.float32)
    rms = np.sqrt(np.mean(np.float64(x) ** 2, axis=1, keepdims=True))
    normal = (x / rms).reshape(-1, dimension)
    distance = np.square(normal[:, None] - codebook(dimension, size).astype(np.float64)).sum(-1)
    value = Vector(dimension, size).project(jnp.asarray(x), NO_CONTEXT).value
    chosen = np.asarray(value / rms, np.float64).reshape(-1, dimension)
    np.testing.assert_allclose(np.square(chosen - normal).sum(-1), distance.min(axis=1), rtol=1e-3, atol=1e-5)
