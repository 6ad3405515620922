"""Random draws of a test module: those of a test alone, whatever ran before it."""

import zlib

import numpy as np
import pytest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("number", range(2))
def test_draws_hang_on_the_name_of_the_test_alone(number, request):
    own = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    np.testing.assert_array_equal(RNG.integers(2**32, size=3), own.integers(2**32, size=3))
