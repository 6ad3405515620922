"""How work on rows is split over the mesh in the context."""

from math import prod

import jax
from jax.sharding import AbstractMesh, AxisType


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
