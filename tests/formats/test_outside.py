"""The class of docs/own_format.md, written outside the package: the table, GMSE, packing and two training steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from support.pages import defined

from capscale.errors import UserError
from capscale.estimators import StraightThrough, Trust
from capscale.formats.base import NO_CONTEXT, granularity_of
from capscale.formats.packing import load, pack, save, unpack
from capscale.gaussian_mse import gmse
from capscale.representation import Operand, Representation, linear
from capscale.testing import CHECKS, Subject, gaussian, same_bits

SignMax = defined("own_format", "class SignMax")["SignMax"]


SUBJECT = Subject(SignMax(), StraightThrough())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_table_holds(check):
    check(SUBJECT)


def test_its_error_is_measured():
    found = gmse(SignMax())
    assert found.method.startswith("Monte Carlo")
    largest = np.abs(np.random.default_rng(5).standard_normal((4000, 1024))).max(axis=1) / 4
    expected = np.mean(1 - 2 * largest * np.sqrt(2 / np.pi) + largest**2)  # but for the largest value itself
    assert abs(found.value - expected) < 0.02


def test_it_packs_to_a_file(tmp_path):
    x = gaussian()
    save(tmp_path / "w.safetensors", {"w": pack(SignMax(), x)})
    found = load(tmp_path / "w.safetensors", known=(SignMax,))["w"]
    assert found.nbytes == x.size // 8 + 4 * x.shape[0]
    same_bits(unpack(found), SignMax().project(x, NO_CONTEXT).value)


def test_it_trains_two_steps():
    representation = Representation(Operand(SignMax(), StraightThrough()), hadamard=16)
    x = gaussian((32, 64), seed=1)
    target = x @ gaussian((64, 8), seed=2)
    w = gaussian((64, 8), seed=3) / 8

    @jax.jit
    def step(w):
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((linear(x, w, representation) - target) ** 2))(w)
        return loss, w - 1e-3 * gradient

    losses = []
    for _ in range(3):
        loss, w = step(w)
        losses.append(float(loss))
    assert losses[2] < losses[0]
    assert np.isfinite(losses).all()


def test_an_estimator_it_cannot_serve_says_what_is_missing():

    with pytest.raises(UserError, match="needs a format with a grid"):
        jax.grad(lambda w: linear(jnp.ones((2, 64)), w, Representation(Operand(SignMax(), Trust()))).sum())(
            jnp.ones((64, 8))
        )


def test_its_kernel_runs_in_linear():
    """Interpreted; `tests/test_kernel_checks.py` holds it to the rest of the kit."""
    representation = Representation(activations=Operand(SignMax(), StraightThrough()), hadamard=64)
    x, w = gaussian((8, 128), seed=1), gaussian((128, 8), seed=2)
    with dispatch.target("tpu", interpret=True), dispatch.force("require"):
        assert "capscale_project" in str(jax.make_jaxpr(lambda x: linear(x, w, representation))(x))
        fused = linear(x, w, representation)
    np.testing.assert_array_equal(fused, linear(x, w, representation))


def test_a_format_that_says_scope_is_read_and_one_that_says_nothing_refused():
    class Old:
        scope = "row"

    with pytest.warns(DeprecationWarning, match="Old.scope is now Old.granularity"):
        assert granularity_of(Old()) == "row"  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="object does not say its granularity; give it `granularity`"):
        granularity_of(object())  # pyright: ignore[reportArgumentType]
