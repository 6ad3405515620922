"""Layers written out in place of a loop: where, and with the same loss and gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels import dispatch
from jax.extend.core import jaxprs_in_params
from support import tiny

from capscale.formats.base import Context
from capscale.models import decoder
from capscale.models.decoder import WRITTEN_OUT, Decoder
from capscale.models.initial import initial_params
from capscale.models.ladder import LADDERS, find_size
from capscale.representation import DENSE

CTX = Context(jnp.float32(0), None)
MODEL = replace(tiny.MODEL, layers=3)
WINDOW_BU = np.arange(2 * 17).reshape(2, 17) % 96


def loss(params, remat=False, unroll=False):
    return Decoder(MODEL, remat=remat, unroll=unroll).apply({"params": params}, WINDOW_BU, CTX, 16, method="mean_loss")


def unrolled(jaxpr):
    """How many bodies every loop over the layers writes out, inner jaxprs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan" and eqn.params["length"] == MODEL.layers:
            yield eqn.params["unroll"]
        for inner in jaxprs_in_params(eqn.params):
            yield from unrolled(inner)


def checkpoints(jaxpr):
    """Parts that are computed anew in the backward pass, inner jaxprs included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("checkpoint", "remat", "remat2"):
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from checkpoints(inner)


@pytest.mark.parametrize(
    ("least", "remat", "platform", "expected"),
    [(0, False, "cpu", 3), (0, True, "cpu", 1), (0, False, "tpu", 1), (WRITTEN_OUT, False, "cpu", 1)],
    ids=["large", "recomputed", "tpu", "small"],
)
def test_layers_of_large_models_are_written_out_on_cpus(least, remat, platform, expected, monkeypatch):
    monkeypatch.setattr(decoder, "WRITTEN_OUT", least)
    params = jax.eval_shape(lambda: initial_params(MODEL, DENSE, jax.random.key(0)))
    with dispatch.target(platform), dispatch.force("reference"):
        traced = jax.make_jaxpr(jax.value_and_grad(lambda params: loss(params, remat)))(params)
        made = jax.make_jaxpr(lambda: initial_params(MODEL, DENSE, jax.random.key(0)))()
    assert set(unrolled(traced.jaxpr)) == {expected}
    assert set(unrolled(made.jaxpr)) == {1}, "nothing is gained where parameters are made"


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_layers_are_written_out_where_that_is_asked(platform, remat):
    """Whatever the size; recomputed ones behind a barrier, without which XLA would keep what it has."""
    params = jax.eval_shape(lambda: initial_params(MODEL, DENSE, jax.random.key(0)))
    with dispatch.target(platform), dispatch.force("reference"):
        traced = jax.make_jaxpr(jax.value_and_grad(lambda params: loss(params, remat, unroll=True)))(params)
    assert set(unrolled(traced.jaxpr)) == {MODEL.layers}
    barriers = {eqn.params["prevent_cse"] for eqn in checkpoints(traced.jaxpr)}
    assert (True in barriers) == remat


@pytest.mark.ci
def test_written_out_layers_give_the_same_loss_and_gradients(monkeypatch):
    params = initial_params(MODEL, DENSE, jax.random.key(0))
    expected = jax.jit(jax.value_and_grad(loss))(params)
    monkeypatch.setattr(decoder, "WRITTEN_OUT", 0)
    found = jax.jit(jax.value_and_grad(loss))(params)
    for other in (found, jax.jit(jax.value_and_grad(lambda params: loss(params, remat=True, unroll=True)))(params)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), other, expected)


def test_the_paper_s_sizes_are_large_and_nano_sizes_are_not():
    large = {name for ladder in LADDERS.values() for name in ladder.sizes}
    large = {name for name in large if find_size(name).non_embedding_parameters >= WRITTEN_OUT}
    assert set(LADDERS["paper"].sizes) < large
    assert not set(LADDERS["nano"].sizes) & large
    assert {"micro-256", "micro-384"} <= large
