"""Projection of rows as one differentiable operation on the backend that `dispatch` chooses.

The gradient rule stands outside everything that partitions or maps, so that jit, vmap, scan, remat and meshes see two
plain functions of rows. Kernels run inside `jax.shard_map` over the context mesh (`jax.set_mesh`), every device on
rows of its own; `custom_partitioning` would need no context, but libtpu does not compile it ahead of time.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple, cast

import jax
from jax import Array
from jax.sharding import AxisType
from jax.typing import DTypeLike

from .. import dispatch, measured
from ..matmul.codes import Multiplicand, Steps
from ..mesh import by_rows, unknown_sharding_reason
from . import reference
from .codes import Encoded, coded_grid
from .reference import Projected
from .spec import Spec, Unsupported
from .tpu.tiles import Tile

Op = Literal["project", "encode"]


class BackendChoice(NamedTuple):
    """Backend of a projection, and whether it is interpreted."""

    backend: dispatch.Backend
    interpret: bool = False

    def options(self, tile: Tile | None = None) -> dict[str, Any]:
        """Arguments of the backend's functions."""
        options = {"interpret": self.interpret, "tile": tile if self.backend == "tpu" else None}
        return {name: value for name, value in options.items() if value}


def choose(spec: Spec | Unsupported, x: Array, label: str = "", op: Op = "project") -> BackendChoice:
    """Backend that runs `op` of `spec` on rows `x` (..., K); see `dispatch.choose`.

    `spec` may be why there is none; `label` names its format and mask in the log.
    """
    shape = (prod(x.shape[:-1]), x.shape[-1])
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    split = unknown_sharding_reason()

    def unsupported(backend: dispatch.Backend) -> str | None:
        if isinstance(spec, Spec) and explicit:
            return "the axes of the context mesh are explicit; give it automatic ones"
        if isinstance(spec, Spec) and split is not None:
            return split
        return refusal(spec, backend, shape, x.dtype, op)

    def slower(backend: dispatch.Backend) -> str | None:
        return None if isinstance(spec, Unsupported) or op == "encode" else measured.slower_projection(spec, backend)

    named = f"{label}{_rotation(spec)}" if label else f"{spec}"
    places = f"{', explicit axes' if explicit else ''}{', split' if split else ''}"
    on = (spec, label, x.dtype, shape, explicit, split)
    backend = dispatch.choose(op, on, unsupported, slower, detail=f"{x.dtype}{list(shape)} {named}{places}")
    return BackendChoice(backend, backend != "reference" and dispatch.current().interpret)


def refusal(
    spec: Spec | Unsupported, backend: dispatch.Backend, shape: tuple[int, int], dtype: DTypeLike, op: Op = "project"
) -> str | None:
    """Why a backend has no kernel of `op` for rows of this shape and dtype, or None where it has."""
    if isinstance(spec, Unsupported):
        return spec.reason
    return _module(backend, op).unsupported(spec, shape, dtype)


def _rotation(spec: Spec | Unsupported) -> str:
    if isinstance(spec, Unsupported) or spec.rotation is None:
        return ""
    return f", rotated by {spec.rotation}{' and back' if spec.back else ''}"


def project(
    spec: Spec, x: Array, given: Array | None = None, how: BackendChoice | None = None, tile: Tile | None = None
) -> Array:
    """Rows `x` (..., K) on the format of `spec`; the gradient passes where its mask says.

    `given` (..., 1): the number that the scale rule reads for every row; no gradient goes into it. `how`: None, to let
    `dispatch` choose. `tile`: blocks of the TPU kernel in place of those it chooses; nothing to other backends.
    Raises ValueError for rows that the spec does not divide, a missing `given`, or a tile that VMEM does not hold.
    """
    rows, given_R1 = _checked(spec, x, given)
    how = choose(spec, x) if how is None else how
    return cast(tuple[Array, None], _project(spec, Call(how, tile), rows, given_R1))[0].reshape(x.shape)


def project_coded(
    spec: Spec, steps: Steps, x: Array, how: BackendChoice, tile: Tile | None = None
) -> tuple[Array, Multiplicand]:
    """`project`, and the same rows in int8 codes of these `steps`, by one kernel; no gradient goes through the codes.

    Codes of a row whose scale is NaN mean nothing. Raises ValueError for what is `without_coded`.
    """
    if (reason := without_coded(spec, how, x.shape[-1], x.dtype)) is not None:
        raise ValueError(f"{spec}: {reason}")
    rows, given_R1 = _checked(spec, x, None)
    value, codes = cast(tuple[Array, Multiplicand], _project(spec, Call(how, tile, steps), rows, given_R1))
    return value.reshape(x.shape), Multiplicand(codes.codes.reshape(x.shape), codes.scales.reshape(*x.shape[:-1], 1))


def without_coded(spec: Spec, how: BackendChoice, width: int, dtype: DTypeLike) -> str | None:
    """Why no kernel of that backend writes codes beside the values of such rows, or None where it does."""
    if how.backend != "tpu":
        return "the projection of TPUs alone writes codes beside values"
    from .tpu import beside

    return beside.unsupported(spec, width, dtype)


def encode(
    spec: Spec, x: Array, given: Array | None = None, how: BackendChoice | None = None, tile: Tile | None = None
) -> Encoded:
    """Codes, packed into bytes, and scales of the rows that `project` gives; `codes.decode` makes them rows again.

    x (..., K), `given`, `how` and `tile`: see `project`. No gradient goes through. NaN has no code: the scale of its
    group is NaN. Bytes lie as `bitplanes` says: `capscale.kernels.matmul` and packed formats lay out theirs otherwise.
    Raises ValueError too where the spec has no codes: without a grid, with a pattern, or of more than 256 codes.
    """
    coded_grid(spec)
    rows, given_R1 = jax.lax.stop_gradient(_checked(spec, x, given))
    how = choose(spec, x, op="encode") if how is None else how

    def run(x_RK: Array, *given: Array) -> Encoded:
        return _module(how.backend, "encode").encode(spec, x_RK, given[0] if given else None, **how.options(tile))

    encoded = _by_rows(how, run)(rows, *([] if given_R1 is None else [given_R1]))
    return Encoded(*(y.reshape(*x.shape[:-1], y.shape[-1]) for y in encoded))


def _checked(spec: Spec, x: Array, given: Array | None) -> tuple[Array, Array | None]:
    """Rows (R, K), and the given number of each."""
    spec.check(x.shape[-1])
    needed = spec.scale is not None and spec.scale.given
    if needed != (given is not None):
        raise ValueError(f"{spec.scale} {'needs a' if needed else 'reads no'} given number of every row")
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    return rows, None if given is None else given.reshape(rows.shape[0], 1)


class Call(NamedTuple):
    """The backend's functions, and how they are called. `steps`: of codes to be written beside the values."""

    how: BackendChoice
    tile: Tile | None
    steps: Steps | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the projection."""
        return self.how.options(self.tile) | ({} if self.steps is None else {"steps": self.steps})


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _project(spec: Spec, by: Call, x_RK: Array, given_R1: Array | None) -> tuple[Array, Multiplicand | None]:
    return _forward(spec, by, x_RK, given_R1)[0]


def _forward(
    spec: Spec, by: Call, x_RK: Array, given_R1: Array | None
) -> tuple[tuple[Array, Multiplicand | None], Array | None]:
    def run(x_RK: Array, *given: Array) -> Projected:
        return _module(by.how.backend).project(spec, x_RK, given[0] if given else None, **by.options)

    found = _by_rows(by.how, run)(x_RK, *([] if given_R1 is None else [given_R1]))
    return (found.value_RK, found.codes), found.mask_RW


def _backward(spec: Spec, by: Call, mask_RW: Array | None, cotangents: tuple[Array, Any]) -> tuple[Array, None]:
    def run(g_RK: Array, *mask: Array) -> Array:
        options = by.how.options(by.tile)
        return _module(by.how.backend).backward(spec, mask[0] if mask else None, g_RK, **options)

    return _by_rows(by.how, run)(cotangents[0], *([] if mask_RW is None else [mask_RW])), None


_project.defvjp(_forward, _backward)


def _by_rows(how: BackendChoice, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` on rows split over the context mesh; XLA splits the reference by itself."""
    return run if how.backend == "reference" else by_rows(run)


def _module(backend: dispatch.Backend, op: Op = "project") -> Any:
    """`unsupported` and what runs `op` of a backend; Pallas is imported where it is used."""
    if backend == "tpu" and op == "encode":
        from .tpu import encode

        return encode
    if backend == "tpu":
        from .tpu import project

        return project
    if backend == "gpu" and op == "encode":
        from .gpu import encode

        return encode
    if backend == "gpu":
        from .gpu import project

        return project
    return reference
