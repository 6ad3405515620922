"""The nearest matrix of low rank and sum of Kronecker products, against float64's singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capscale.errors import UserError
from capscale.formats import Compensated, Context, Int, Nearest, Scalar
from capscale.formats.base import NO_CONTEXT, per_row
from capscale.formats.catalog import find
from capscale.formats.distributions import NORMAL
from capscale.formats.families import Laplace
from capscale.gaussian_mse import gmse
from capscale.parametrizations import KroneckerSum, LowRank, Shared
from capscale.representation import Representation, operand, project

QUARTER, KRONECKER = Nearest(LowRank(share=0.25)), Nearest(KroneckerSum(share=0.25))
COMPENSATED = Compensated(Scalar(Int(2)), Nearest(LowRank(share=0.1)))


def gaussian(shape, seed=0, decay=0.0):
    """Normal entries; with a decay, singular values that fall as that power of their number."""
    x = np.random.default_rng(seed).standard_normal(shape)
    if decay:
        left, values, right = np.linalg.svd(x, full_matrices=False)
        x = (
            left
            * (values.max(-1, keepdims=True) * np.arange(1, values.shape[-1] + 1.0) ** -decay)[..., None, :]
            @ right
        )
    return x.astype(np.float32)


def by_places(x):
    """Entries of a matrix by the definition of a Kronecker product: a row a place of A, a column a place of B."""
    rows, columns = (max(n for n in range(1, size + 1) if size % n == 0 and n * n <= size) for size in x.shape)
    height, width = x.shape[0] // rows, x.shape[1] // columns
    out = np.zeros((rows * columns, height * width))
    for a, c in np.ndindex(rows, columns):
        for b, d in np.ndindex(height, width):
            out[a * columns + c, b * width + d] = x[a * height + b, c * width + d]
    return out


def best(x, rank):
    """Nearest matrix of that rank, in float64."""
    left, values, right = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def distance(x, value):
    return float(np.square(np.asarray(x, np.float64) - np.asarray(value, np.float64)).sum())


@pytest.mark.parametrize("shape", [(40, 96), (96, 40)], ids=str)
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_values_are_the_nearest_of_their_set(shape, decay):
    x = gaussian(shape, decay=decay)
    rank = QUARTER.of.rank_of(shape)
    assert rank == int(0.25 * 40 * 96 / 136)
    np.testing.assert_allclose(QUARTER.project(jnp.asarray(x), NO_CONTEXT).value, best(x, rank), atol=1e-4)
    terms, places = KRONECKER.of.rank_of(shape), by_places(x)
    value = np.asarray(KRONECKER.project(jnp.asarray(x), NO_CONTEXT).value)
    np.testing.assert_allclose(by_places(value), best(places, terms), atol=1e-4)
    np.testing.assert_array_equal(KRONECKER.of.arranged(jnp.asarray(x)), by_places(x))
    np.testing.assert_array_equal(KRONECKER.of.arranged_back(KRONECKER.of.arranged(jnp.asarray(x)), shape), x)


def excess(state, x, format=QUARTER):
    """Energy beyond that of the nearest matrix, as a share of it."""
    value = format.project(jnp.asarray(x), Context(state=state)).value
    return distance(x, value) / distance(x, best(x, format.of.rank_of(x.shape))) - 1


STEP = jax.jit(lambda state, x: QUARTER.next_state(state, x, x, jnp.int32(1), jnp.float32(0)))


@pytest.mark.parametrize(("decay", "most"), [(0.0, (0.45, 0.14, 0.03)), (1.0, (0.4, 0.02, 2e-3))])
def test_subspace_iteration_comes_near_from_anywhere(decay, most):
    """After 1, 4, 16 steps from random columns, of Gaussian singular values, which have no gap, and of falling ones."""
    x, found = gaussian((100, 100), decay=decay), []
    state = jnp.asarray(np.linalg.qr(gaussian((100, QUARTER.of.rank_of(x.shape)), seed=1))[0])
    for step in range(16):
        state = STEP(state, jnp.asarray(x))
        if step + 1 in (1, 4, 16):
            found.append(excess(state, x))
    assert all(0 <= one <= bound for one, bound in zip(found, most, strict=True)), found


@pytest.mark.ci
def test_a_step_of_iteration_follows_weights_that_move():
    """A walk of a hundredth of the weights a step: what the basis misses stays below a thousandth of the error."""
    x = gaussian((96, 128))
    state = QUARTER.initial_state(jnp.asarray(x))
    assert abs(excess(state, x)) < 1e-5
    still = state
    for step in range(40):
        x = x + 0.01 * gaussian(x.shape, seed=2 + step)
        state = STEP(state, jnp.asarray(x))
    assert excess(state, x) < 2e-3
    assert excess(still, x) > 5 * excess(state, x), "the test can fail"


@pytest.mark.ci
def test_stated_errors_are_those_of_gaussian_matrices():
    """Finite matrices within what their size leaves of the limit; any law of entries; the limit of large squares."""
    for format, shape in ((QUARTER, (60, 160)), (KRONECKER, (100, 100)), (COMPENSATED, (100, 100))):
        x = gaussian((3, *shape), seed=3)
        apart = COMPENSATED.rounding.project(jnp.asarray(x), NO_CONTEXT).value if format is COMPENSATED else 0.0
        left = np.square(x - np.asarray(format.project(jnp.asarray(x), NO_CONTEXT).value)).sum()
        set_ = format.remainder if isinstance(format, Compensated) else format
        assert left / np.square(x - apart).sum() == pytest.approx(set_.error_of(shape, NORMAL), rel=0.015)
    laplace = np.random.default_rng(4).laplace(scale=0.5**0.5, size=(3, 100, 100)).astype(np.float32)
    found = np.mean(np.square(laplace - np.asarray(QUARTER.project(jnp.asarray(laplace), NO_CONTEXT).value)))
    assert found == pytest.approx(QUARTER.error(Laplace(), 100).value, rel=0.03)
    assert gmse(QUARTER).value == pytest.approx(QUARTER.error_of((1 << 14, 1 << 14), NORMAL), rel=1e-3)
    both = gmse(Scalar(Int(2))).value * gmse(COMPENSATED.remainder).value
    assert gmse(COMPENSATED).value == pytest.approx(both, rel=1e-12)
    assert (QUARTER.bits, COMPENSATED.bits) == (4, 2 + 1.6)


def test_a_compensation_is_of_what_rounding_leaves():
    x = gaussian((64, 96))
    rounded = np.asarray(COMPENSATED.rounding.project(jnp.asarray(x), NO_CONTEXT).value, np.float64)
    expected = rounded + best(x - rounded, COMPENSATED.remainder.of.rank_of(x.shape))
    np.testing.assert_allclose(COMPENSATED.project(jnp.asarray(x), NO_CONTEXT).value, expected, atol=1e-4)
    state = COMPENSATED.initial_state(jnp.asarray(x))
    moved = COMPENSATED.next_state(state, jnp.asarray(x), jnp.asarray(x), jnp.int32(1), jnp.float32(0))
    np.testing.assert_allclose(moved @ moved.T, state @ state.T, atol=1e-4)


def test_the_gradient_turns_the_subspace():
    """It passes straight through, also across the subspace, and a state follows what that makes of the weights."""
    x, across = jnp.asarray(gaussian((24, 32))), jnp.asarray(gaussian((24, 32), seed=1))
    state = QUARTER.initial_state(x)
    held = operand("nearest-lowrank0.25")
    pulled = jax.vjp(lambda x: project(held, x, Context(state=state)), x)[1](across)[0]
    np.testing.assert_array_equal(pulled, across)
    moved = x + 3 * across
    after = QUARTER.next_state(state, moved, across, jnp.int32(1), jnp.float32(0))
    assert excess(after, np.asarray(moved)) < 0.5 * excess(state, np.asarray(moved))


def test_what_cannot_be_is_refused_by_name():
    x = jnp.ones((8, 16))
    for make, words in (
        (lambda: Nearest(LowRank(9)).project(x, NO_CONTEXT), "lowrank-r9 of a matrix of 16 inputs and 8 outp.*rank=9"),
        (lambda: Nearest(Shared(4)), "use LowRank"),  # pyright: ignore[reportArgumentType]
        (lambda: Compensated(find("top50"), QUARTER), "must be a Scalar"),
        (lambda: Compensated(find("lsq4"), QUARTER), "measured scales"),
        (lambda: Compensated(find("int2"), find("int2")), "a format of low rank"),  # pyright: ignore[reportArgumentType]
        (lambda: QUARTER.project(x[0], NO_CONTEXT), r"the shape \(16,\); give two axes"),
        (lambda: QUARTER.project(x, Context(state=jnp.ones((16, 3)))), r"one of \(16, 1\)"),
        (lambda: per_row(QUARTER), "works on whole matrices"),
        (lambda: Representation(operand("nearest-lowrank0.25"), hadamard=8), "cannot be rotated"),
    ):
        with pytest.raises(UserError, match=words):
            make()
