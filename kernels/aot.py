"""Compiling for chips that are not here: TPUs by libtpu, Hopper GPUs as far as StableHLO."""

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

CHIPS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
"""Smallest topology of every TPU generation that is compiled for."""
_COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is run, so several may compile at once
}


class Unavailable(Exception):
    """A check that cannot be made on this machine; says why."""


@cache
def tpu_devices(topology: str, slices: int = 1) -> list[Any]:
    """Devices of TPU slices of one kind to compile for. Raises `Unavailable` where libtpu is not installed."""
    if find_spec("libtpu") is None:
        raise Unavailable("libtpu is not installed: pip install 'capscale[tpu]'")
    if jax.default_backend() != "tpu":
        for name, value in _COMPILE_ONLY.items():
            os.environ.setdefault(name, value)
    from jax.experimental import topologies

    several = {"num_slices": slices} if slices > 1 else {}
    return list(topologies.get_topology_desc(topology, platform="tpu", **several).devices)


def compile_for_tpu(chip: str, function: Callable[..., Any], *operands: Any) -> Any:
    """`function` compiled for one of `CHIPS`, for operands of these shapes. `Unavailable`: see `tpu_devices`."""
    one = jax.make_mesh((1,), ("chip",), axis_types=(AxisType.Auto,), devices=tpu_devices(CHIPS[chip])[:1])
    everywhere = NamedSharding(one, PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
    return jax.jit(function, in_shardings=everywhere, out_shardings=everywhere).lower(*shapes).compile()


def lower_for_hopper(function: Callable[..., Any], *operands: Any) -> str:
    """StableHLO of `function` for a Hopper GPU."""
    return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
