"""Where a run's arrays live: a Mesh with axes ("data", "fsdp")."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from capscale.errors import UserError
from capscale.kernels.mesh import automatic_axes

DATA, FSDP = "data", "fsdp"


def make_mesh(fsdp: int = 1, devices: list[Any] | None = None) -> Mesh:
    """Mesh over `devices` (default: all) with `fsdp` devices sharing one copy of the parameters.

    Batches are split over both axes, parameters and moments over `fsdp`. Devices of one process stand together, so that
    a process feeds consecutive rows of a batch.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda device: device.process_index)
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(f"fsdp={fsdp} does not divide the {len(devices)} devices; use a divisor")
    return Mesh(np.asarray(devices).reshape(-1, fsdp), (DATA, FSDP))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, batch_axis: int) -> NamedSharding:
    """The batch axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, (DATA, FSDP)))


def state_sharding(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
    """A sharding per leaf: matrices are split over `fsdp` along their largest axis it divides, the rest replicated."""
    parts = mesh.shape[FSDP]

    def sharding(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0 and size >= parts]
        if parts == 1 or leaf.ndim < 2 or not divisible:
            return replicated(mesh)
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP))

    return jax.tree.map(sharding, abstract_state)


def split_as_state(tree: Any) -> Any:
    """`tree`, each leaf split over the context mesh as `state_sharding` splits it, and its gradient with it.

    XLA would gather projected weights as soon as they are made, all of them.
    """
    mesh, auto = automatic_axes()
    if FSDP not in auto or mesh.shape[FSDP] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, state_sharding(mesh, tree))


def local_rows(mesh: Mesh, batch: int) -> slice:
    """The rows of a batch that the devices of this process hold."""
    held = batch_sharding(mesh, batch_axis=0).addressable_devices_indices_map((batch,)).values()
    bounds = [rows[0].indices(batch)[:2] for rows in held if rows is not None]
    return slice(min(first for first, _ in bounds), max(last for _, last in bounds))
