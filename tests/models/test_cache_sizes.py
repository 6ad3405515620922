"""Bytes of attention's cache by N: against arrays that are made, and between the sizes of a ladder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny

from capscale.errors import UserError
from capscale.formats.catalog import find
from capscale.formats.packing import pack
from capscale.models.cache_sizes import CacheSizes
from capscale.models.coverage import cache_bytes
from capscale.models.ladder import ladder
from capscale.representation import DENSE, Representation, operand

MODELS = list(ladder("nano").sizes.values())


def cached(keys, values):
    return Representation(keys=operand(keys, per_token=True), values=operand(values, per_token=True))


def test_bytes_are_those_of_arrays():
    """Keys of two sequences of 16 tokens in bytes that are packed, values as bfloat16, by layer, head and token."""
    model, batch, context = tiny.MODEL, 2, 16
    shape = (model.layers, batch, context, model.keys_and_values, model.features_per_head)
    keys = jax.random.normal(jax.random.key(0), shape)
    values = np.zeros(shape, jnp.bfloat16)
    found = CacheSizes([*MODELS, model], cached("int4", "dense"), batch * context)
    assert found(model.non_embedding_parameters) == pytest.approx(pack(find("int4"), keys).nbytes + values.nbytes)
    both = CacheSizes([*MODELS, model], DENSE, batch * context)
    assert both(model.non_embedding_parameters) == pytest.approx(2 * values.nbytes)


def test_between_sizes_it_follows_a_power_and_beyond_it_goes_on():
    sizes = CacheSizes(MODELS, cached("int8", "int4"), 1)
    told = {model.non_embedding_parameters: cache_bytes(model, cached("int8", "int4")) for model in MODELS}
    (first, at_first), (second, at_second) = sorted(told.items())[:2]
    middle = float(np.sqrt(first * second))
    assert sizes(middle) == pytest.approx(np.sqrt(at_first * at_second))
    assert sizes(first**2 / second) == pytest.approx(at_first**2 / at_second)
    assert (sizes.knows(middle), sizes.knows(first / 2), sizes.knows(1e12)) == (True, False, False)
    many = np.geomspace(1e2, 1e9, 200)
    assert np.all(np.diff([sizes(float(N)) for N in many]) > 0)


def test_refusals():
    with pytest.raises(UserError, match="a cache of 0 tokens"):
        CacheSizes(MODELS, DENSE, 0)
    with pytest.raises(UserError, match="shapes of 1 sizes do not say"):
        CacheSizes(MODELS[:1], DENSE, 8)
