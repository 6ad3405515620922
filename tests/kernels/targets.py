"""Compiling for TPUs that are not here, in tests."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from capscale.kernels.ahead import CHIPS, Unavailable, tpu_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def compile_for_tpu(generation: str, function: Callable[..., Any], *operands: Any) -> Any:
    """`function` compiled for one chip; skips the test where libtpu is not installed."""
    try:
        devices = tpu_devices(CHIPS[generation])
    except Unavailable as reason:
        pytest.skip(str(reason))
    everywhere = NamedSharding(Mesh(np.array(devices[:1]), ("chip",)), PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
    return jax.jit(function, in_shardings=everywhere, out_shardings=everywhere).lower(*shapes).compile()
