"""Cross-entropy of tokens and its gradients, by the platform that they are compiled for."""

from math import prod
from typing import Literal

from jax import Array
from jax.typing import DTypeLike

from .. import dispatch
from ..mesh import automatic_axes, unknown_sharding_reason
from . import reference

CrossEntropy = Literal["xla", "pallas"]
"""XLA, or Pallas kernels that write and read the logits once."""


def cross_entropy(x_BTM: Array, head_VM: Array, target_BT: Array) -> reference.CrossEntropyGradients:
    """Cross-entropy of logits `x head^T`, with its gradients; the gradient of the head is left to the caller.

    Logits are multiplied in the dtype of the head and summed in float32; targets are ids below V.
    """
    if choose(target_BT.size, (len(head_VM), x_BTM.shape[-1]), head_VM.dtype) == "xla":
        return reference.cross_entropy(x_BTM, head_VM, target_BT)
    from . import tpu

    return tpu.cross_entropy(x_BTM, head_VM, target_BT, interpret=dispatch.current().interpret)


def choose(rows: int, shape_VM: tuple[int, int], dtype: DTypeLike) -> CrossEntropy:
    """Program for so many rows and a head of this shape, on the platform in force; see `dispatch.choose`."""
    if dispatch.current().platform != "tpu":
        return "xla"  # decided without `dispatch`: there is no kernel that "require" could ask for
    mesh, auto = automatic_axes()
    devices, split = prod(mesh.shape[axis] for axis in auto), unknown_sharding_reason()

    def unsupported(_: dispatch.Backend) -> str | None:
        from . import tpu

        if devices > 1:
            return f"rows are not split over the {devices} devices of the mesh"
        return split or tpu.unsupported(rows, *shape_VM, dtype)

    on = (rows, shape_VM, str(dtype), devices, split)
    backend = dispatch.choose("cross-entropy", on, unsupported, detail=f"{dtype}[{rows}] by {list(shape_VM)}")
    return "pallas" if backend == "tpu" else "xla"
