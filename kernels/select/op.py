"""Selection by magnitude, the k-th largest and the mask of exactly k survivors, on whatever runs it best."""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from capscale.kernels import dispatch
from capscale.kernels.mesh import unknown_sharding_reason
from jax import Array, lax
from jax.sharding import AxisType

from . import search


def kth_magnitude(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,)) -> Array:
    """k-th largest |x| over `axes` (kept with length 1), in the dtype of x.

    Exact for float32, bfloat16 and float16, by counting; no sort. 1 <= k <= size of `axes`; k may be traced.
    """
    backend = _choose(x, k, axes)
    if backend == "reference":
        return search.kth_magnitude(x, k, axes, _split() is None)
    return _resident(backend, x, k, axes)[1]


def largest(x: Array, k: int | Array, axes: tuple[int, ...] = (-1,)) -> tuple[Array, Array]:
    """Mask of the k entries of largest magnitude over `axes`, and the k-th magnitude.

    Exactly k are kept: among entries equal to the k-th, those that come first in row-major order over `axes`; a NaN
    counts as the largest. Counts are integers, so that the mask is the same however the tensor is sharded.
    """
    backend = _choose(x, k, axes)
    if backend == "reference":
        return search.largest(x, k, axes, _split() is None)
    return _resident(backend, x, k, axes)


def _choose(x: Array, k: int | Array, axes: tuple[int, ...]) -> dispatch.Backend:
    """Backend that runs it; kernels hold what they count on one chip, so XLA counts over a mesh."""
    split = _split()

    def unsupported(backend: dispatch.Backend) -> str | None:
        if split is not None:
            return split
        if axes not in ((-1,), (-2, -1)) or x.ndim < len(axes):
            return f"axes {axes} are neither the rows nor the matrices"
        if jnp.ndim(k):
            return f"k has the shape {jnp.shape(k)}; the kernel takes one number"
        if not x.size:
            return "there is nothing to select"
        return _module(backend).unsupported((x.shape[-2] if x.ndim > 1 else 1, x.shape[-1]), x.dtype, axes)

    on = (x.dtype, x.shape, axes, jnp.shape(k), split)
    detail = f"{x.dtype}{list(x.shape)} over {axes}, k of shape {jnp.shape(k)}{'' if split is None else ', split'}"
    return dispatch.choose("select", on, unsupported, detail=detail)


def _split() -> str | None:
    """Why jit may split the tensor over devices, or None where it cannot."""
    mesh = jax.sharding.get_abstract_mesh()
    split = [name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual]
    if prod(mesh.shape[name] for name in split) > 1:
        return f"the tensor may be split over {split}, and XLA adds up the counts"
    return unknown_sharding_reason()


def _resident(backend: dispatch.Backend, x: Array, k: int | Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """`largest` by a kernel, on (matrices, rows, columns)."""
    matrices = 1 if axes == (-1,) else prod(x.shape[:-2])
    shaped = lax.stop_gradient(x).reshape(matrices, prod(x.shape[:-1]) // matrices, x.shape[-1])
    interpret = dispatch.current().interpret
    mask, bits = _module(backend).largest(shaped, jnp.asarray(k, jnp.int32), axes, interpret=interpret)
    kept = x.shape[: x.ndim - len(axes)] + (1,) * len(axes)
    threshold = lax.bitcast_convert_type(bits, jnp.float32).astype(x.dtype)
    return mask.reshape(x.shape), threshold.reshape(kept)


def _module(backend: dispatch.Backend) -> Any:
    """`largest` and `unsupported` of a backend; Pallas is imported where it is used."""
    if backend == "tpu":
        from . import tpu

        return tpu
    from . import gpu

    return gpu
