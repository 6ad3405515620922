"""No token sees a later one, forward or backward, whatever is compressed."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import Context
from capscale.gradients import BackwardProduct, Gradients
from capscale.models import layers
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.representation import DENSE, Operand, Representation, operand

T = 8
MODEL = replace(tiny.MODEL, layers=1, width=32, multiple_of=32, tied_embeddings=False, context=T, init_std=0.2)
TOKENS = np.arange(T)  # every token its own row of the embedding: the gradient by a row is that by a position
CTX = Context(jnp.float32(1), None)


def compressed(weights: str, activations: str, hadamard: int | None = None) -> Representation:
    return Representation(operand(weights), operand(activations, per_token=True), hadamard)


REPRESENTATIONS = {
    "dense": DENSE,
    "int4 both, rotated": compressed("int4", "int4", 32),
    "top50 both": compressed("top50", "top50"),
}
INT8 = BackwardProduct(catalog.find("absmax-mid-tread-int8"), catalog.find("absmax-mid-tread-int8"), hadamard=8)
MORE = {
    "int4 weights": compressed("int4", "dense", 32),
    "2:4+int4 and int8": compressed("2:4+int4", "int8"),
    "mxfp4 activations": compressed("dense", "mxfp4"),
    "nvfp4 activations": compressed("int4", "nvfp4"),
    "int8 gradients": Representation(operand("int4"), gradients=Gradients(INT8, INT8)),
}


class Influence(NamedTuple):
    """How much token s bears on the loss at t, `(t, s)`."""

    backward: np.ndarray
    """Largest gradient by the embedding of token s."""
    forward: np.ndarray
    """Change of the loss when token s is another one."""


def influence(representation: Representation, model: ModelConfig = MODEL) -> Influence:
    params = jax.jit(Decoder(model).init)(jax.random.key(0), jnp.asarray(TOKENS)[None], CTX)["params"]

    def losses(embedding, tokens):
        logits = Decoder(model, representation).apply({"params": params | {"embedding": embedding}}, tokens[None], CTX)
        losses = -jax.nn.log_softmax(logits[0])[:, 0]
        return losses, losses

    compute = jax.jit(jax.jacrev(losses, has_aux=True))
    jacobian, before = compute(params["embedding"], jnp.asarray(TOKENS))
    changed = [np.where(s == TOKENS, 50 + s, TOKENS) for s in range(T)]
    after = np.stack([compute(params["embedding"], jnp.asarray(tokens))[1] for tokens in changed], axis=1)
    return Influence(np.abs(jacobian).max(axis=-1)[:, TOKENS], np.abs(after - np.asarray(before)[:, None]))


def sees_the_future(influence: np.ndarray) -> bool:
    return bool(np.any(influence[~np.tri(T, dtype=bool)] != 0.0))


def check_causal(representation: Representation, model: ModelConfig = MODEL) -> None:
    for direction in influence(representation, model):
        assert not sees_the_future(direction)
        assert np.all(direction[np.tri(T, dtype=bool)] > 0.0), "every token sees itself and all before"


@parametrize("name", list(REPRESENTATIONS), default=["int4 both, rotated"])
def test_causal(name):
    check_causal(REPRESENTATIONS[name])


@pytest.mark.ci
def test_olmo2_is_causal():
    check_causal(REPRESENTATIONS["int4 both, rotated"], replace(MODEL, family="olmo2"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_causal_in_more_formats(name):
    check_causal(MORE[name])


def test_without_the_mask_the_check_fails(monkeypatch):
    unmasked = jax.nn.dot_product_attention
    monkeypatch.setattr(layers.jax.nn, "dot_product_attention", lambda q, k, v, is_causal: unmasked(q, k, v))
    for direction in influence(DENSE):
        assert sees_the_future(direction)


@pytest.mark.ci
def test_a_format_over_all_tokens_is_refused_and_would_fail_the_check(monkeypatch):
    leaking = Operand(catalog.find("top50"))
    with pytest.raises(UserError, match="would let one token see others"):
        Representation(activations=leaking)
    monkeypatch.setattr(Representation, "__post_init__", lambda self: None)
    # Straight-through gradients do not see the threshold that tokens share; the forward direction does.
    assert sees_the_future(influence(Representation(activations=leaking)).forward)
