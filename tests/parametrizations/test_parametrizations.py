"""Parametrizations against their definitions in float64: the matrix, its gradient, first values, counts, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from capscale.errors import UserError
from capscale.parametrizations import Hashed, KroneckerSum, LowRank, Monarch, Nola, Shared
from capscale.parametrizations.hashing import _found as hashed_places
from capscale.parametrizations.low_rank import low_rank_error
from capscale.parametrizations.sharing import _found, places
from capscale.parametrizations.shuffles import keys_of, moved, moved_back

SHAPE = (12, 32)
HASHED = (Hashed(0.3), Hashed(0.25, 7))
EACH = (Shared(4), Shared(2, seed=7), LowRank(3), KroneckerSum(share=0.3), Monarch(4), Nola(0.25, 5), *HASHED)
each = pytest.mark.parametrize("parametrization", EACH, ids=str)


def drawn(parametrization, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    sizes = parametrization.arrays(shape).items()
    return {name: jnp.asarray(rng.standard_normal(size), jnp.float32) for name, size in sizes}


def of_vector(stored, x):
    """Product of a row with a Monarch matrix, step by step: a block a run of inputs, a transposition, a block there."""
    first_aic, second_cao = (np.asarray(stored[name], np.float64) for name in ("first", "second"))
    met_ac = np.stack([run @ block for run, block in zip(np.split(x, len(first_aic)), first_aic, strict=True)])
    return np.concatenate([met_ac[:, c] @ second_cao[c] for c in range(len(second_cao))])


def matrix(parametrization, stored):
    """The matrix by its definition."""
    full = {name: np.asarray(values, np.float64) for name, values in stored.items()}
    if isinstance(parametrization, LowRank):
        return full["left"] @ full["right"]
    if isinstance(parametrization, KroneckerSum):
        return sum(np.kron(a, b) for a, b in zip(full["A"], full["B"], strict=True))
    if isinstance(parametrization, Monarch):
        return np.stack([of_vector(stored, row) for row in np.eye(SHAPE[0])])
    raise AssertionError(parametrization)


@pytest.mark.parametrize("parametrization", EACH[2:5], ids=str)
def test_the_matrix_is_that_of_the_definition(parametrization):
    stored = drawn(parametrization)
    np.testing.assert_allclose(parametrization.value(stored, SHAPE), matrix(parametrization, stored), atol=2e-6)


def test_nola_is_a_product_of_sums_over_fixed_matrices():
    """Bilinear in the coefficients, of the rank that it says, and its random matrices are Gaussian."""
    nola, rng = Nola(0.25, 5), np.random.default_rng(1)
    first, second, third = (drawn(nola, seed=seed) for seed in range(3))
    both = {"left": first["left"] + 2 * second["left"], "right": third["right"]}
    parts = [nola.value({"left": part["left"], "right": third["right"]}, SHAPE) for part in (first, second)]
    np.testing.assert_allclose(nola.value(both, SHAPE), parts[0] + 2 * parts[1], rtol=1e-4, atol=1e-3)
    assert np.linalg.matrix_rank(np.asarray(nola.value(first, SHAPE)), tol=1e-3) == 5
    ones = {name: jnp.asarray(rng.choice([-1.0, 1.0], size), jnp.float32) for name, size in nola.arrays(SHAPE).items()}
    assert float(jnp.var(nola.value(ones, SHAPE))) == pytest.approx(5 * 48 * 48, rel=0.3)


@pytest.mark.parametrize("parametrization", EACH[:2], ids=str)
def test_sharing_is_a_linear_map_and_its_gradient_the_transpose(parametrization):
    """A ±1 for every entry, `share` of them for every number; both signs, and no block of neighbours."""
    share, arrays = parametrization.share, parametrization.arrays(SHAPE)
    count = math.prod(arrays["shared"])
    ones = jnp.eye(count).reshape(count, *arrays["shared"])
    columns = jax.vmap(lambda one: parametrization.value({"shared": one}, SHAPE))(ones)
    T = np.asarray(columns).reshape(count, -1).T
    np.testing.assert_array_equal(np.abs(T).sum(axis=1), 1)
    np.testing.assert_array_equal(np.abs(T).sum(axis=0), share)
    assert abs(T.sum()) < 4 * math.sqrt(T.shape[0]), "signs are even"
    assert len({tuple(np.flatnonzero(T[:, i]) % SHAPE[1]) for i in range(count)}) > count // 2
    stored = drawn(parametrization)["shared"]
    g = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    value, pull = jax.vjp(lambda s: parametrization.value({"shared": s}, SHAPE), stored)
    np.testing.assert_allclose(value, (T @ np.asarray(stored).ravel()).reshape(SHAPE))
    np.testing.assert_allclose(np.asarray(pull(jnp.asarray(g))[0]).ravel(), T.T @ g.ravel(), rtol=1e-5, atol=1e-5)
    W = np.random.default_rng(3).standard_normal((2000, T.shape[0]))
    nearest = W @ T @ T.T / share
    assert np.mean((W - nearest) ** 2) == pytest.approx(parametrization.gmse(SHAPE), rel=0.01)


@each
def test_first_values_have_the_dense_deviation_and_counts_are_those_of_arrays(parametrization):
    keys = jax.random.split(jax.random.key(0), 400)
    values = jax.vmap(lambda key: parametrization.value(parametrization.init(key, SHAPE, 0.08), SHAPE))(keys)
    assert float(jnp.std(values)) == pytest.approx(0.08, rel=0.05)
    assert abs(float(jnp.mean(values))) < 0.005
    stored = parametrization.init(keys[0], SHAPE, 0.08)
    assert parametrization.stored_numbers(SHAPE) == sum(leaf.size for leaf in jax.tree.leaves(stored))
    assert {name: leaf.shape for name, leaf in stored.items()} == parametrization.arrays(SHAPE)


@pytest.mark.parametrize("parametrization", HASHED, ids=str)
def test_hashing_is_a_linear_map_of_uneven_buckets(parametrization):
    """One ±1 for every entry; numbers are taken by none, one or several, as by chance; the gradient is the sum."""
    count = parametrization.stored_numbers(SHAPE)
    assert count == int(parametrization.share * 384)
    columns = jax.vmap(lambda one: parametrization.value({"hashed": one}, SHAPE))(jnp.eye(count))
    T = np.asarray(columns, np.float64).reshape(count, -1).T
    np.testing.assert_array_equal(np.abs(T).sum(axis=1), 1)
    taken = np.abs(T).sum(axis=0)
    assert abs(np.mean(taken == 0) - math.exp(-1 / parametrization.share)) < 0.05
    assert np.var(taken) == pytest.approx(1 / parametrization.share, rel=0.35)
    assert abs(T.sum()) < 4 * math.sqrt(T.shape[0]), "signs are even"
    stored = drawn(parametrization)["hashed"]
    g = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    value, pull = jax.vjp(lambda s: parametrization.value({"hashed": s}, SHAPE), stored)
    np.testing.assert_array_equal(value, (T @ np.asarray(stored, np.float64)).reshape(SHAPE))
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], T.T @ g.ravel(), rtol=1e-5, atol=1e-5)
    W = np.random.default_rng(3).standard_normal((2000, T.shape[0]))
    nearest = W @ (T / np.maximum(taken, 1)) @ T.T
    assert np.mean((W - nearest) ** 2) == pytest.approx(1 - np.mean(taken > 0) * count / 384, rel=0.01)


def test_hashing_errs_as_expected_over_hashes_and_no_version_changes_them():
    """The stated error is the mean over seeds of what is left where every bucket's signed mean is taken."""
    left = [1 - len(np.unique(hashed_places(seed, 96, SHAPE, np).stored)) / 384 for seed in range(200)]
    assert Hashed(0.25).gmse(SHAPE) == pytest.approx(np.mean(left), abs=4 * np.std(left) / 200**0.5)
    assert Hashed(1e-9).gmse((2, 2)) == 0.75
    assert Hashed(1.0).gmse((512, 512)) == pytest.approx(math.exp(-1), rel=1e-4)
    found = hashed_places(0, 96, SHAPE, np)
    assert found.stored[0, :6].tolist() == [51, 43, 75, 65, 64, 75]
    assert found.signs[0, :6].tolist() == [-1, 1, 1, 1, -1, 1]
    for table, computed in zip(found, hashed_places(0, 96, SHAPE), strict=True):
        np.testing.assert_array_equal(table, computed)


def test_a_shuffle_is_a_permutation_that_no_version_changes():
    shape, keys = (9, 20), keys_of(3, "sharing")
    rows, columns = (grid.astype(np.uint32) for grid in np.indices(shape))
    there = moved(rows, columns, shape, keys)
    assert len(np.unique(there[0] * 20 + there[1])) == 180
    back = moved_back(*there, shape, keys)
    np.testing.assert_array_equal(back, (rows, columns))
    found = _found(Shared(3), shape, np)
    assert found.stored[0, :6].tolist() == [17, 42, 26, 50, 16, 49]
    assert found.signs[0, :6].tolist() == [1, -1, -1, 1, -1, -1]
    for table, computed in zip(found, _found(Shared(3), shape, jnp), strict=True):
        np.testing.assert_array_equal(table, computed)


def test_large_matrices_compute_their_places_in_the_program():
    """Those of tables and of the program are the same map: no constant of the matrix's size is left."""
    sharing, shape = Shared(2), (512, 512)
    assert isinstance(places(sharing, shape).signs, jax.Array)
    stored = {"shared": jnp.ones((256, 512))}
    assert float(jnp.sum(jnp.abs(jax.jit(lambda s: sharing.value(s, shape))(stored)))) == 512 * 512


def energy_left(matrices, rank):
    """Share of energy outside of the largest singular values, mean over matrices."""
    squares = np.linalg.svd(matrices, compute_uv=False) ** 2
    return float(np.mean(squares[:, rank:].sum(axis=1) / matrices[0].size))


@pytest.mark.ci
def test_errors_are_those_of_gaussian_matrices():
    """Low rank by Marchenko and Pastur, also of a square by its own formula; Kronecker sums; slices of rank 1."""
    rng = np.random.default_rng(0)
    assert low_rank_error(55, (110, 300)) == pytest.approx(0.2495, abs=2e-4)
    assert energy_left(rng.standard_normal((4, 110, 300)), 55) == pytest.approx(
        low_rank_error(55, (110, 300)), rel=5e-3
    )
    for rank in (10, 25, 100):  # of a square, by the quarter-circle law
        theta: float = brentq(  # pyright: ignore[reportAssignmentType]
            lambda t, rank=rank: 2 / math.pi * (t + math.sin(2 * t) / 2) - 1 + rank / 200, 0, math.pi / 2
        )
        expected = 2 / math.pi * (theta - math.sin(4 * theta) / 4)
        assert low_rank_error(rank, (200, 200)) == pytest.approx(expected, rel=1e-8)
    assert low_rank_error(200, (200, 300)) == 0
    kronecker, shape = KroneckerSum(40), (100, 225)
    A, B = kronecker.arrays(shape)["A"][1:], kronecker.arrays(shape)["B"][1:]
    blocks = rng.standard_normal((6, A[0], B[0], A[1], B[1])).transpose(0, 1, 3, 2, 4)
    rearranged = blocks.reshape(6, A[0] * A[1], B[0] * B[1])
    assert energy_left(rearranged, 40) == pytest.approx(kronecker.gmse(shape), rel=0.01)
    assert Monarch(5).gmse((10, 10)) == pytest.approx(1 - (2 + math.pi / 2) / 4, rel=1e-5)
    for side, other, count in ((20, 20, 1000), (13, 13, 2000), (6, 12, 8000), (3, 5, 20000), (4, 4, 20000)):
        found = energy_left(rng.standard_normal((count, side, other)), 1)
        assert Monarch(5).gmse((5 * side, 5 * other)) == pytest.approx(found, rel=0.01)
    assert Monarch(4).gmse((4, 32)) == 0.0
    assert Nola(0.25, 5).gmse(SHAPE) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LowRank(13).arrays(SHAPE), ("lowrank-r13", "12 inputs", "rank=13", "12 at most")),
        (lambda: Shared(5).arrays(SHAPE), ("shared5", "does not divide the inputs", "divisor of 12")),
        (lambda: Monarch(8).arrays(SHAPE), ("monarch8", "does not divide both", "divisor of 4")),
        (lambda: KroneckerSum(13).arrays(SHAPE), ("kronecker-k13", "12 at most")),
        (lambda: Nola(0.25, 13).arrays(SHAPE), ("rank=13", "12 at most")),
        (lambda: Nola(1.0, 512).arrays((512, 512)), ("smaller share or rank",)),
        (LowRank, ("give rank, or share",)),
        (lambda: LowRank(2, share=0.5), ("not both",)),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, words):
    with pytest.raises(UserError) as refused:
        make()
    for word in words:
        assert word in str(refused.value)
