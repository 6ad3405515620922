"""Where a run's arrays live: a Mesh with axes ("data", "fsdp")."""

from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from capscale.errors import UserError
from capscale.formats.base import Context
from capscale.kernels.mesh import automatic_axes
from capscale.kernels.rounding import rounded_to
from capscale.models.projected import KERNEL, path_name
from capscale.train.memory import Gather, Reduce

DATA, FSDP = "data", "fsdp"
MULTIPLIED = ("kernel", "embedding", "head")
"""Names of parameters that meet nothing but products, and a look-up, in the model's dtype."""

WINDOWED_FROM_MIB, NEVER = "xla_jf_spmd_threshold_for_windowed_einsum_mib", 1_000_000
"""Option of XLA for TPUs: least MiB of a product that it takes apart to send beside it; and a number above them all."""


def make_mesh(fsdp: int = 1, devices: list[Any] | None = None) -> Mesh:
    """Mesh over `devices` (default: all) with `fsdp` devices sharing one copy of the parameters.

    Batches are split over both axes, parameters and moments over `fsdp`. Devices of one process stand together, so that
    a process feeds consecutive rows of a batch; and those of one TPU slice do, so that what crosses the slower network
    between slices are sums of gradients alone, once a step. (`mesh_utils.create_hybrid_device_mesh` makes the same of
    slices, but turns the devices inside of one, after which the rows of a process are not consecutive.)
    """
    devices = sorted(
        jax.devices() if devices is None else devices, key=lambda device: (slice_of(device), device.process_index)
    )
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(f"fsdp={fsdp} does not divide the {len(devices)} devices; use a divisor")
    together = len(devices) // len({slice_of(device) for device in devices})
    if together % fsdp:
        raise UserError(
            f"fsdp={fsdp} does not divide the {together} devices of a slice, which share parameters; use a divisor"
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), (DATA, FSDP))


def compiler_options(mesh: Mesh) -> dict[str, Any] | None:
    """XLA's options for programs over a mesh: on TPUs that split parameters, products of whole gathered weights.

    By itself XLA takes such products apart, a piece of the weights at a time as it arrives (a windowed einsum), from
    some size on. What sending that hides, its pieces lose several times over where the weights of a layer are small
    beside its activations: by XLA's quick estimate 1,057 ms in place of 453 in a step of 430M on v5e:4x4. Not with many
    micro-batches, for each of which weights are sent: 800M takes 1,765 ms in place of 1,748 with eight. None for
    other devices, for copies of all parameters, and for a libtpu that does not know the option.
    """
    split_on_tpu = mesh.shape[FSDP] > 1 and mesh.devices.flat[0].platform == "tpu"
    return {WINDOWED_FROM_MIB: NEVER} if split_on_tpu and _is_known(WINDOWED_FROM_MIB, mesh) else None


def _is_known(option: str, mesh: Mesh) -> bool:
    """Whether the mesh's compiler knows an option: one that it does not is an error, which would end a run."""
    options: dict[str, Any] = {option: NEVER}
    try:
        jax.jit(lambda: jnp.zeros(()), out_shardings=replicated(mesh)).lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def slice_of(device: Any) -> int:
    """The TPU slice of a device, of several that train together; 0 where there are none. GPUs count hosts by that."""
    return getattr(device, "slice_index", 0) if getattr(device, "platform", "") == "tpu" else 0


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, batch_axis: int) -> NamedSharding:
    """The batch axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, (DATA, FSDP)))


def state_sharding(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
    """A sharding per leaf: matrices are split over `fsdp` along an axis that it divides, the rest replicated.

    Kernels along their outputs, so that each device has whole rows of inputs, on which formats project them; others,
    and kernels of outputs that do not divide, along the largest axis.
    """
    parts = mesh.shape[FSDP]

    def sharding(path: Any, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0 and size >= parts]
        if parts == 1 or leaf.ndim < 2 or not divisible:
            return replicated(mesh)
        axis = max(divisible, key=lambda axis: leaf.shape[axis])
        if path_name(path).endswith(KERNEL) and leaf.ndim - 1 in divisible:
            axis = leaf.ndim - 1
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP))

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def split_as_state(tree: Any) -> Any:
    """`tree`, each leaf split over the context mesh as `state_sharding` splits it, and its gradient with it.

    XLA would gather projected weights as soon as they are made, all of them.
    """
    mesh, auto = automatic_axes()
    if FSDP not in auto or mesh.shape[FSDP] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, state_sharding(mesh, tree))


def by_outputs(function: Callable[[Array, Context], Any], kernel: Array, ctx: Context) -> Any:
    """`function` of kernels (..., in, out), by every device of the context mesh on the outputs that it has of them.

    It returns arrays of as many axes, outputs last. XLA by itself would send rows about for kernels that take them
    layer after layer. As `state_sharding` splits them; all at once where outputs do not divide.
    """
    mesh, auto = automatic_axes()
    if FSDP not in auto or mesh.shape[FSDP] == 1 or kernel.shape[-1] % mesh.shape[FSDP]:
        return function(kernel, ctx)
    split = PartitionSpec(*[None] * (kernel.ndim - 1), FSDP)
    run = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(split, PartitionSpec()),
        out_specs=split,
        axis_names={FSDP},
        check_vma=False,
    )
    return run(kernel, ctx)


def gathered(tree: Any, specs: Any, dtype: Any, unread: Container[str] = ()) -> Any:
    """`tree`, whose leaves are a device's parts by `specs`, whole; inside of `jax.shard_map` over the mesh.

    Matrices that are multiplied in `dtype` are sent in it, and are float32 again: they are rounded to it anyway. Leaves
    of the paths `unread` are zero, and not sent: something else is read in their place, and they get the gradient.
    """

    def gather(path: Any, leaf: Array, spec: PartitionSpec) -> Array:
        axis = _axis(spec)
        if axis is None:
            return leaf
        if path_name(path) in unread:
            sides = [size * (jax.lax.axis_size(FSDP) if each == axis else 1) for each, size in enumerate(leaf.shape)]
            return jnp.zeros(sides, leaf.dtype)
        multiplied = path_name(path).split("/")[-1] in MULTIPLIED
        sent = leaf.astype(dtype) if multiplied else leaf
        return jax.lax.all_gather(sent, FSDP, axis=axis, tiled=True).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(gather, tree, specs)


def scattered_mean(tree: Any, specs: Any, dtype: DTypeLike = "float32") -> Any:
    """Mean over all devices of trees that each of them has whole, of which each keeps its part by `specs`.

    Devices that share weights part their sum first, so that those of other copies send each other a part each. `dtype`:
    see `mean_over_devices`.
    """

    def scatter(path: Any, leaf: Array, spec: PartitionSpec) -> Array:
        axis, sent = _axis(spec), _as_sent(path, leaf, dtype)
        if axis is None:
            total = jax.lax.psum(sent, (DATA, FSDP))
        else:
            total = jax.lax.psum(jax.lax.psum_scatter(sent, FSDP, scatter_dimension=axis, tiled=True), DATA)
        return total.astype(leaf.dtype) / (jax.lax.axis_size(DATA) * jax.lax.axis_size(FSDP))

    return jax.tree_util.tree_map_with_path(scatter, tree, specs)


def mean_over_devices(tree: Any, axis: str, dtype: DTypeLike) -> Any:
    """Mean over devices along an axis of the mesh of trees that each of them has whole; inside of `jax.shard_map`.

    Matrices are sent in `dtype`, gains and learned steps as they are. In bfloat16 each device's part is rounded to
    the nearest, and so may be every sum of parts on its way: their mean is off by `2**-8 * sum(abs(parts))` at most, to
    first order. That prefers no sign, but is not unbiased: what is less than half of a sum's last digit is always lost.
    """

    def mean(path: Any, leaf: Array) -> Array:
        total = jax.lax.psum(_as_sent(path, leaf, dtype), axis)
        return total.astype(leaf.dtype) / jax.lax.axis_size(axis)

    return jax.tree_util.tree_map_with_path(mean, tree)


def _as_sent(path: Any, leaf: Array, dtype: DTypeLike) -> Array:
    return rounded_to(leaf, dtype) if path_name(path).split("/")[-1] in MULTIPLIED else leaf


def check_reduce(reduce: Reduce, *, devices: int, fsdp: int = 1, gather: Gather = "layer") -> None:
    """Raises `UserError` where gradients are to be rounded between devices, and none are sent, or XLA sends them."""
    if reduce == "float32":
        return
    if devices == 1:
        raise UserError(
            f"reduce={reduce}: gradients are rounded where devices send them to each other, and here is one device; "
            "train on several, by --mode mesh, or leave --reduce out"
        )
    if fsdp > 1 and gather == "layer":
        raise UserError(
            f"reduce={reduce}: with --fsdp {fsdp} and --gather layer XLA adds up gradients by itself; give "
            "--gather step or codes, or leave --reduce out"
        )


def _axis(spec: PartitionSpec) -> int | None:
    """The axis that a leaf is split along, None for none."""
    return spec.index(FSDP) if FSDP in spec else None


def mapped(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` on every device of the context mesh by itself."""
    mesh, auto = automatic_axes()
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=set(auto), check_vma=False
    )


def local_rows(mesh: Mesh, batch: int) -> slice:
    """The rows of a batch that the devices of this process hold."""
    held = batch_sharding(mesh, batch_axis=0).addressable_devices_indices_map((batch,)).values()
    bounds = [rows[0].indices(batch)[:2] for rows in held if rows is not None]
    return slice(min(first for first, _ in bounds), max(last for _, last in bounds))
