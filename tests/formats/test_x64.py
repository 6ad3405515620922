"""Formats where JAX makes 64-bit numbers (`JAX_ENABLE_X64=1`), as the law fit does: the same bits and contracts."""

import json

import jax
import jax.numpy as jnp
import pytest
from support.cases import parametrize
from test_conformance import AT_EVERY_CHANGE
from test_golden import GOLDEN, SUMMED, digests

from capscale.formats import catalog
from capscale.testing import Subject
from capscale.testing.contracts import check_batches, check_forward, check_gradient, check_levels, check_storage


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        assert jnp.zeros(1).dtype == jnp.float64
        yield


@parametrize(
    "name",
    [
        n if n in AT_EVERY_CHANGE else pytest.param(n, marks=pytest.mark.slow)
        for n in catalog.FORMATS
        if n not in SUMMED
    ],
    default=["int4", "mxfp4", "2:4"],
)
def test_values_and_gradients_are_those_of_32_bits(name):
    assert digests(name) == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("check", [check_forward, check_batches, check_gradient, check_storage, check_levels])
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in sorted(AT_EVERY_CHANGE)])
def test_contracts(name, check):
    check(Subject(catalog.find(name)))
