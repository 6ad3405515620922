"""Heads side by side: the numbers of a reshape, moved by lanes where a kernel reads them on a TPU."""

import jax
import numpy as np
import pytest
from capscale.kernels import dispatch

from capscale.models.heads import side_by_side


def pulled(x, g, by_kernel):
    y, pull = jax.vjp(lambda x: side_by_side(x, by_kernel=by_kernel), x)
    return y, *pull(g)


@pytest.mark.parametrize(
    ("platform", "width", "by_kernel", "joins"),
    [("tpu", 128, True, True), ("tpu", 64, True, False), ("tpu", 128, False, False), ("gpu", 128, True, False)],
)
def test_heads_lie_as_a_reshape_puts_them(platform, width, by_kernel, joins):
    x, g = (jax.random.normal(jax.random.key(i), (2, 3, 5, width)) for i in (0, 1))
    with dispatch.target(platform):
        traced = str(jax.make_jaxpr(lambda x: side_by_side(x, by_kernel=by_kernel))(x))
        y, dx = pulled(x, g.reshape(2, 3, -1), by_kernel)
    np.testing.assert_array_equal(y, x.reshape(2, 3, -1))
    np.testing.assert_array_equal(dx, g)
    assert ("concatenate" in traced) == joins
