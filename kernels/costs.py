"""Costs of projections without a chip: on TPUs the kernel's schedule against a copy of the same bytes, on Hopper what
its kernels take of a multiprocessor.

Estimates, not measurements: libtpu compiles the forward kernel, mask included, and what is counted are the bundles of
its schedule (`bundles`), a lower bound of its time. Of Hopper's kernels ptxas tells no time, but registers, spills and
shared memory, and so how many blocks run beside each other (`ptxas`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from . import bundles, ptxas
from .aot import Unavailable, compile_for_tpu
from .chips import TPUS
from .project import Spec
from .project.op import Op
from .project.tpu import project as tpu

KERNEL = "capscale_project"
CHIPS = ("v5e", "v6e")
"""Generations that costs are told of: those of one core a chip."""
SHAPE = (4096, 4096)


class Projecting(NamedTuple):
    """Cost of a projection on a chip.

    Attributes:
      kernel: cost by the schedule.
      seconds: by the schedule, or by the bytes where these take longer.
      copy: seconds of a copy: every value read and written once at the chip's bandwidth.
    """

    kernel: bundles.Cost
    seconds: float
    copy: float


def of_projection(spec: Spec, chip: str, shape: tuple[int, int] = SHAPE, dtype: DTypeLike = jnp.bfloat16) -> Projecting:
    """Cost of projecting rows of this shape.

    Raises:
      Unavailable: libtpu is missing or was loaded before it could be asked for schedules, or no kernel takes the rows.
    """
    reason = tpu.unsupported(spec, shape, dtype)
    if reason is not None:
        raise Unavailable(reason)
    folder = bundles.folder()
    if folder is None:
        raise Unavailable("libtpu was loaded before it could be asked for schedules: ask in a process of its own")
    for written in folder.iterdir():
        written.unlink()
    x, given = _rows(spec, shape, dtype)
    compile_for_tpu(chip, partial(tpu.project, spec), x, given)
    (path,) = (path for name, path in bundles.schedules(folder).items() if name.startswith(KERNEL))
    cost, speed = bundles.cost(path.read_text()), TPUS[chip]
    copy = 2 * x.size * x.dtype.itemsize / speed.bandwidth
    return Projecting(cost, max(cost.cycles / speed.clock, copy), copy)


def on_hopper(
    spec: Spec, shape: tuple[int, int] = SHAPE, dtype: DTypeLike = jnp.bfloat16, op: Op = "project"
) -> dict[str, ptxas.Resources]:
    """Resources of the kernels that project rows of this shape on Hopper, or encode them, by their names.

    Raises:
      Unavailable: what compiles for Hopper is not installed, or no kernel takes the rows.
    """
    try:
        from .project.gpu import encode, project
    except ImportError as error:
        raise Unavailable(f"this jaxlib has no Mosaic GPU: {error}") from error
    reason = project.unsupported(spec, shape, dtype)
    if reason is not None:
        raise Unavailable(reason)
    x, given = _rows(spec, shape, dtype)
    return ptxas.compiled(partial(project.project if op == "project" else encode.encode, spec), x, given).kernels


def costs() -> dict[str, Callable[[Spec], str]]:
    """Words for the cost of a projection by name: a function of a `Spec` for each generation of `CHIPS`, and H100."""
    return {f"cost-{chip}": partial(_told, chip=chip) for chip in CHIPS} | {"cost-h100": _told_of_hopper}


def _rows(spec: Spec, shape: tuple[int, int], dtype: DTypeLike) -> tuple[jax.ShapeDtypeStruct, Any]:
    """Shapes of rows, and of a given number of each where the scale rule reads one."""
    needed = spec.scale is not None and spec.scale.given
    return jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((shape[0], 1), jnp.float32) if needed else None


def _whole_groups(spec: Spec) -> tuple[int, int]:
    group = spec.group or 1
    return SHAPE[0], -(-SHAPE[1] // group) * group


def _told_of_hopper(spec: Spec) -> str:
    rows, width = _whole_groups(spec)
    kernels = on_hopper(spec, (rows, width))
    told = [
        f"{name.removeprefix('capscale_')} {of.registers} registers, {of.stored + of.loaded} bytes spilled a thread, "
        f"{of.shared / 1024:.0f} KiB shared, {of.blocks} blocks a multiprocessor"
        + (f", wgmma serialised {of.serialised} times" if of.serialised else "")
        for name, of in kernels.items()
    ]
    return f"by ptxas for {rows} x {width} in bfloat16, not run: {'; '.join(told)}"


def _told(spec: Spec, chip: str) -> str:
    rows, width = _whole_groups(spec)
    kernel, seconds, copy = of_projection(spec, chip, (rows, width))
    return (
        f"estimated {1e6 * seconds:.0f} us for {rows} x {width} in bfloat16, {copy / seconds:.0%} of a copy's speed: "
        f"{kernel.cycles} cycles in {kernel.bundles} bundles, {kernel.multiplying / max(kernel.cycles, 1):.0%} of them "
        f"multiplying, {kernel.registers} of 64 vector registers, spills: {kernel.spilled}"
    )
