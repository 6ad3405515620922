"""How work on rows is split over the mesh in the context."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax import Array
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from . import dispatch


def automatic_axes() -> tuple[AbstractMesh, tuple[str, ...]]:
    """The context mesh (`jax.set_mesh`), and its axes that no `jax.shard_map` around has taken."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh, tuple(a for a, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto)


def dividing(mesh: AbstractMesh, axes: tuple[str, ...], rows: int) -> tuple[str, ...]:
    """Those of `axes` over which so many rows are split; devices along the others do the same work."""
    chosen: tuple[str, ...] = ()
    for axis in axes:
        if mesh.shape[axis] > 1 and rows % prod(mesh.shape[a] for a in (*chosen, axis)) == 0:
            chosen = (*chosen, axis)
    return chosen


def by_rows(run: Callable[..., Any], whole: int = 0) -> Callable[..., Any]:
    """`run` on operands whose rows are split over the automatic axes of the context mesh, as its results are.

    `whole`: so many of the last operands are the same on every device.
    """
    mesh, auto = automatic_axes()
    if not auto:
        return run

    def mapped(*operands: Any) -> Any:
        first: Array = operands[0]
        rows = PartitionSpec(dividing(mesh, auto, first.shape[0]))
        specs = (*[rows] * (len(operands) - whole), *[PartitionSpec()] * whole)
        return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, axis_names=set(auto), check_vma=False)(
            *operands
        )

    return mapped


def unknown_sharding_reason() -> str | None:
    """Reason not to run a kernel: without a mesh, jit may shard its operand, of which it would see one shard.

    None where that cannot happen.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and dispatch.current().platform == jax.default_backend() and jax.device_count() > 1:
        return f"jit may split the tensor over {jax.device_count()} devices; name a mesh by jax.set_mesh"
    return None
