"""Unbiased scales: the identity that defines them, their error, and the mean over random rotations."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimators import STRAIGHT_THROUGH, TRUST
from capscale.formats import (
    NM,
    Absmax,
    Int,
    Learned,
    Outliers,
    Rms,
    Scalar,
    SparseQuantized,
    StochasticRounding,
    Unbiased,
    catalog,
)
from capscale.formats.base import NO_CONTEXT
from capscale.formats.distributions import NORMAL
from capscale.formats.packing import pack
from capscale.formats.serialize import from_json, to_json
from capscale.formats.stated import CLOSED_FORM, PACKING, unstated
from capscale.fused import spec_of
from capscale.gaussian_mse import gmse, measured

NAMES = ("lloyd1", "lloyd2", "lloyd4", "int4")


def gaussian(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape) * 3, jnp.float32)


@parametrize(
    "name",
    ["int4-g16-unbiased", "absmax-int4-g16x16-unbiased", "int3-matrix-unbiased", *(f"{n}-unbiased" for n in NAMES)],
    default=3,
)
def test_products_with_the_values_are_those_of_the_values_themselves(name):
    format, x = catalog.find(name), gaussian((32, 64))
    assert catalog.label(format) == name
    assert isinstance(format, Scalar)
    groups = format.groups
    split, value = (groups.split(y) for y in (x, format.project(x, NO_CONTEXT).value))
    axes = groups.axes(2)
    ratio = jnp.sum(split * value, axis=axes) / jnp.sum(split * split, axis=axes)
    np.testing.assert_allclose(ratio, 1.0, rtol=2e-6)
    plain = groups.split(replace(format, scale=format.scale.rule).project(x, NO_CONTEXT).value)
    assert np.abs(jnp.sum(split * plain, axis=axes) / jnp.sum(split * split, axis=axes) - 1).max() > 1e-3


@parametrize("name", ["lloyd1", "lloyd2", "lloyd4"], default=1)
def test_the_error_is_d_over_one_less_d(name):
    """Of centroids; and as it is measured on long rows. One bit is DRIVE's: pi / 2 - 1."""
    plain, found = gmse(catalog.find(name)).value, gmse(catalog.find(f"{name}-unbiased"))
    assert found.method == "closed form"
    assert abs(found.value - plain / (1 - plain)) < 1e-9
    sample = measured(catalog.find(f"{name}-unbiased"), NORMAL, 8192)
    assert abs(sample.value - found.value) < 5 * sample.standard_error + found.value / 1024


def test_one_bit_is_drives():
    assert abs(gmse(catalog.find("lloyd1-unbiased")).value - (np.pi / 2 - 1)) < 1e-12


def test_grids_whose_levels_are_no_centroids_have_their_own_error():
    """Levels that are no means of their cells lose other than D / (1 - D)."""
    format = Scalar(Int(2), Unbiased(Rms(3.0)))
    plain, found = gmse(Scalar(Int(2), Rms(3.0))).value, gmse(format).value
    assert abs(found / (plain / (1 - plain)) - 1) > 0.05
    sample = measured(format, NORMAL, 8192)
    assert abs(sample.value - found) < 5 * sample.standard_error + found / 1024


def test_short_groups_are_measured():
    assert gmse(catalog.find("absmax-int4-g32-unbiased")).method.startswith("Monte Carlo")
    assert gmse(catalog.find("lloyd4-unbiased"), samples=64).method.startswith("Monte Carlo")


def test_the_mean_over_random_rotations_is_the_row():
    """Uniform rotations, undone: within four standard errors for all entries, which the plain scale is not."""
    width, count = 8, 20_000
    rng = np.random.default_rng(0)
    x = np.array([3.0, -1.0, 0.5, 0, 0, 0.25, 2, -0.1])
    turns, corner = np.linalg.qr(rng.standard_normal((count, width, width)))
    turns = turns * np.sign(np.diagonal(corner, axis1=1, axis2=2))[:, None, :]
    rows = jnp.asarray(turns @ x, jnp.float32)

    def means(name: str) -> tuple[np.ndarray, np.ndarray]:
        value = np.asarray(catalog.find(name).project(rows, NO_CONTEXT).value, np.float64)
        back = np.einsum("nij,ni->nj", turns, value)
        return back.mean(axis=0), back.std(axis=0) / count**0.5

    mean, error = means("lloyd1-unbiased")
    assert np.all(np.abs(mean - x) < 4 * error)
    mean, error = means("lloyd1")
    assert np.abs(mean - x).max() > 20 * error.max()


def test_nothing_but_zeros_keeps_its_scale():
    format = Scalar(Int(4, "mid-tread"), Unbiased(Rms(1000.0)))
    assert not np.asarray(format.project(gaussian((2, 64)), NO_CONTEXT).value).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scalar(Int(4), Unbiased(Absmax("bfloat16"))), "must be a float32"),
        (lambda: Scalar(StochasticRounding(Int(4)), Unbiased()), "unbiased by itself"),
        (lambda: Unbiased(Learned()), "measures and stores one scale"),
        (lambda: Unbiased(Unbiased()), "measures and stores one scale"),
        (lambda: SparseQuantized(NM(2, 4), Scalar(Int(4), Unbiased())), "only a Scalar by itself"),
        (lambda: Outliers(Scalar(Int(4), Unbiased()), 0.01), "only a Scalar by itself"),
        (lambda: catalog.find("top50-unbiased"), "only scalar formats"),
        (lambda: catalog.find("int4-g48-ragged-unbiased").project(gaussian((1, 64)), NO_CONTEXT), "divide the row"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_what_it_goes_with():
    format = catalog.find("lloyd4-unbiased")
    assert from_json(to_json(format)) == format
    assert default_estimator(format) == TRUST
    assert str(spec_of(format, STRAIGHT_THROUGH)) == "Unbiased scales are left to XLA"


@dataclass(frozen=True)
class Doubled(Unbiased):
    """Chooses levels by twice the scale."""

    def choosing(self, group, grid, ctx):
        return 2 * super().choosing(group, grid, ctx)


def test_who_overrides_the_choice_loses_what_rests_on_it():
    format = Scalar(Int(4), Doubled())
    for derived in (CLOSED_FORM, PACKING):
        assert "overrides choosing" in str(unstated(format, derived))
    assert gmse(format).method.startswith("Monte Carlo")
    with pytest.raises(UserError, match="cannot be packed"):
        pack(format, gaussian((2, 64)))
