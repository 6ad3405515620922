"""E8P: its points are of the lattice, the nearest is found among all 65,536, and codes tell every one apart."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.estimators import STRAIGHT_THROUGH
from capscale.formats import E8P, catalog
from capscale.formats.base import NO_CONTEXT
from capscale.formats.e8p import CODES, STEP, _coordinates, _decode, _encode, _nearest, magnitudes
from capscale.formats.packing import pack, unpack
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse

ALL = jnp.arange(CODES, dtype=jnp.uint32)
POINTS = np.asarray(jax.jit(lambda codes: _coordinates(_decode(codes)))(ALL), np.float64)


def test_points_are_of_the_moved_lattice():
    """E8 holds D8 and D8 moved by a half: less a quarter, both sums are even, and both kinds of point there."""
    quarter = np.where(np.arange(CODES) % 2 == 1, -0.25, 0.25)[:, None]
    halves = POINTS - quarter
    assert np.all(np.abs(halves) % 1 == 0.5)
    assert np.all(halves.sum(axis=1) % 2 == 0)
    assert len(np.unique(POINTS, axis=0)) == CODES
    np.testing.assert_array_equal(np.unique(-POINTS, axis=0), np.unique(POINTS, axis=0))
    assert magnitudes().shape == (256, 8)
    assert np.sum(np.square(magnitudes()).sum(axis=1) <= 10) == 227


def test_codes_are_those_of_the_points():
    np.testing.assert_array_equal(jax.jit(lambda codes: _encode(_decode(codes)))(ALL), ALL)


@pytest.mark.ci
def test_the_nearest_of_all_points_is_found():
    u = np.random.default_rng(0).standard_normal((1000, 8)) * np.linspace(0.5, 3, 1000)[:, None]
    u = u.astype(np.float32)
    found = np.asarray(jax.jit(lambda u: _coordinates(_nearest(u)))(jnp.asarray(u)), np.float64)
    distances = np.square(POINTS).sum(axis=1) / 2 - u.astype(np.float64) @ POINTS.T
    nearest = POINTS[distances.argmin(axis=1)]
    np.testing.assert_array_equal(found, nearest)


@pytest.mark.ci
def test_bits_and_error():
    """Below that of codebooks of two and four coordinates at two bits; at the scale of QuIP#, which is the best."""
    format = catalog.find("e8p")
    found = gmse(format)
    assert format.bits == 2
    assert found.method.startswith("Monte Carlo")
    assert abs(found.value - 0.0911) < 1e-4 + 5 * found.standard_error
    assert found.value < gmse(catalog.find("higgs-d4-n256")).value < gmse(catalog.find("higgs-d2-n16")).value
    x = jnp.asarray(np.random.default_rng(1).standard_normal((64, 1024)), jnp.float32)
    errors = [
        float(jnp.mean(jnp.square(E8P(step).project(x, NO_CONTEXT).value - x)))
        for step in (0.95 * STEP, STEP, 1.05 * STEP)
    ]
    assert min(errors) == errors[1]


@parametrize("group", ["row", "matrix", 32], default=[32])
def test_groups_are_packed(group):
    format = replace(catalog.find("e8p"), group=group)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((3, 64)), jnp.float32)
    packed = pack(format, x)
    np.testing.assert_array_equal(unpack(packed), format.project(x, NO_CONTEXT).value)
    assert len(packed.fields["codes"]) == x.size * 2 // 8


def test_what_is_refused_and_left_to_xla():
    assert str(spec_of(E8P(), STRAIGHT_THROUGH)) == "E8P formats are left to XLA"
    with pytest.raises(UserError, match="whole runs of 8"):
        E8P(group=12)
    with pytest.raises(UserError, match="width that it divides, not 60"):
        E8P().project(jnp.ones((2, 60)), NO_CONTEXT)
