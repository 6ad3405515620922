"""Compiling for chips that are not here: TPUs by libtpu, Hopper GPUs by the plugin of CUDA, or as far as StableHLO."""

import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
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
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""XLA's description of the GPU that is compiled for, where none can be asked."""
WHEELS = (
    *("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-nvjitlink"),
    "nvidia-cuda-nvdisasm",
)
"""Packages that compile for Hopper, beside jax; none of them needs a GPU."""


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
    return _compile(tpu_devices(CHIPS[chip]), function, operands)


def _compile(devices: list[Any], function: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
    one = jax.make_mesh((1,), ("chip",), axis_types=(AxisType.Auto,), devices=devices[:1])
    everywhere = NamedSharding(one, PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
    return jax.jit(function, in_shardings=everywhere, out_shardings=everywhere).lower(*shapes).compile()


@cache
def hopper_devices() -> list[Any]:
    """An H100 to compile for. Raises `Unavailable` where the plugin of CUDA or a compiler of its is not installed.

    jax has no public way: `topologies.get_topology_desc` asks a client for GPUs that are here.
    """
    missing = [name for name in WHEELS if not _installed(name)]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not installed: pip install {' '.join(wheels())}")
    from jax._src import xla_bridge

    try:
        if "cuda" not in xla_bridge._topology_factories:
            xla_bridge._discover_and_register_pjrt_plugins()
        topology: Any = xla_bridge._topology_factories["cuda"]("", topology="1x1x1", target_config=_H100)
        return list(topology._make_compile_only_devices())
    except (AttributeError, KeyError, jax.errors.JaxRuntimeError) as error:
        raise Unavailable(f"jax {jax.__version__} compiles for no GPU that is not here: {error!r}") from error


def wheels() -> list[str]:
    """Those packages as pip is told to install them, jax's at its own version."""
    return [f"{name}=={jax.__version__}" if name.startswith("jax") else name for name in WHEELS]


def _installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def compile_for_hopper(function: Callable[..., Any], *operands: Any) -> Any:
    """`function` compiled for an H100, for operands of these shapes. `Unavailable`: see `hopper_devices`."""
    return _compile(hopper_devices(), function, operands)


def lower_for_hopper(function: Callable[..., Any], *operands: Any) -> str:
    """StableHLO of `function` for a Hopper GPU."""
    return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
