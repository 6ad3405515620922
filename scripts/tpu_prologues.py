"""Time of a prologue and the projection behind it on TPUs, by one kernel and apart, by the schedules of their compiler.

    python scripts/tpu_prologues.py                      # needs libtpu (pip install 'jax[tpu]'), no TPU
    python scripts/tpu_prologues.py --json docs/benchmarks/prologues-tpu.json

Estimates, not measurements: XLA's own cycles, and for kernels the cycles of their schedules or the time of their bytes,
whichever is longer. Rows in bfloat16 are normalised, or silu(gate) * up is taken of two, then they are rotated and
projected, with the mask of the gradient. "alone" is the projection of rows that are there, "apart" XLA's prologue and
that, "together" one kernel; "arithmetic" are the kernels' cycles alone. "backward" are the gradients of gate and up
behind the mask, or of the rows and the gain of a norm, with what comes past it added.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from about import about
from capscale.kernels import bundles, dispatch
from capscale.kernels.aot import compile_for_tpu
from capscale.kernels.project import Spec, Unsupported
from capscale.kernels.project.gated import Gate
from capscale.kernels.project.mask import mask_bytes
from capscale.kernels.project.norm import Norm
from capscale.kernels.project.tpu import project as tpu
from jax import Array

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of
from capscale.sweep.estimate import estimate
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import CHIPS, Slice

SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    "normed": ((16384, 640), (4096, 4096)),
    "gated": ((16384, 1792), (4096, 5632)),
}
"""By prologue, of 30M and of larger models: inputs of queries, and hidden features of feed-forward layers."""
FORMATS = {"normed": (("int4", 128),), "gated": (("int4", 128), ("int4", None), ("mxfp4", 128))}
"""With the block of their rotation."""


class Case(NamedTuple):
    """A prologue and the projection behind it, forward, or the gradients of both."""

    prologue: Norm | Gate
    format: str
    rotation: int | None
    shape: tuple[int, int]
    backward: bool = False

    @property
    def spec(self) -> Spec:
        """The projection in training."""
        of = find(self.format)
        spec = spec_of(of, default_estimator(of, rotated=self.rotation is not None), self.rotation)
        assert not isinstance(spec, Unsupported), spec
        return spec

    def programs(self) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
        """Programs by how they compute it, with shapes of their operands."""
        spec, prologue = self.spec, self.prologue
        x = jax.ShapeDtypeStruct(self.shape, jnp.bfloat16)
        operands = [x, x] if isinstance(prologue, Gate) else [x, jax.ShapeDtypeStruct(self.shape[1:], jnp.float32)]
        if not self.backward:
            return {
                "alone": (lambda x: tpu.project(spec, x), [x]),
                "apart": (lambda *of: tpu.project(spec, prologue(*of)), operands),
                "together": (lambda x, *of: tpu.project(spec, x, ahead=(prologue, of)), operands),
            }
        mask = jax.ShapeDtypeStruct((self.shape[0], mask_bytes(self.shape[1])), jnp.uint8)

        def apart(mask: Array, g: Array, *of: Array) -> Any:
            return jax.vjp(prologue, *of)[1](tpu.backward(spec, mask, g))

        if isinstance(prologue, Norm):

            def added(mask: Array, g: Array, past: Array, *of: Array) -> Any:
                into_x, into_gain = apart(mask, g, *of)
                return past + into_x, into_gain

            def together(mask: Array, g: Array, past: Array, *of: Array) -> Any:
                into_x, parts = tpu.backward_normed(spec, prologue, mask, (g, past), (of[0], of[1]))
                return into_x, jnp.sum(parts, axis=0)

            return {
                "alone": (lambda mask, g: tpu.backward(spec, mask, g), [mask, x]),
                "apart": (added, [mask, x, x, *operands]),
                "together": (together, [mask, x, x, *operands]),
            }
        return {
            "alone": (lambda mask, g: tpu.backward(spec, mask, g), [mask, x]),
            "apart": (apart, [mask, x, *operands]),
            "together": (lambda mask, g, *of: tpu.backward_gated(spec, mask, g, of), [mask, x, *operands]),
        }


def cases(prologue: Norm | Gate) -> list[Case]:
    """All of a prologue; gradients once for each rotation, as they know no format."""
    shapes = SHAPES[prologue.name]
    found = [Case(prologue, name, rotation, shape) for name, rotation in FORMATS[prologue.name] for shape in shapes]
    backward = [of._replace(backward=True) for of in found if of.format == "int4"]
    return found + backward


def times(chip: str, case: Case, folder: Path) -> dict[str, float]:
    """Estimated microseconds of each program."""
    found = {}
    for name, (program, operands) in case.programs().items():
        for written in folder.iterdir():
            written.unlink()
        with dispatch.target("tpu", chip=chip):
            schedule = read_schedule(compile_for_tpu(chip, program, *operands).as_text(), 1)
        found[f"{name}_us"] = round(1e6 * estimate(schedule, Slice(chip, "2x2"), 4, folder).step, 1)
        files = bundles.schedules(folder)
        cycles = sum(bundles.cycles(files[kernel.name].read_text()) for kernel in schedule.kernels)
        found[f"{name}_arithmetic_us"] = round(1e6 * cycles / CHIPS[chip].clock, 1)
    return found


def main() -> None:
    """Prints a row for each chip and case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"], choices=["v5e", "v6e"])
    parser.add_argument("--prologues", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    arguments = parser.parse_args()
    folder = bundles.folder()
    assert folder is not None, "libtpu was loaded before it could be told to write schedules"
    made = about("jax", "libtpu")
    print(f"by schedules of libtpu {made['versions']['libtpu']}; estimates, nothing was run; us, and of arithmetic")
    print(f"{'chip prologue         format     rows x width':48s}{'alone':>15s}{'apart':>15s}{'together':>15s}")
    table: list[dict[str, Any]] = []
    for chip in arguments.chips:
        for prologue in (each for each in (Norm(1e-5), Gate()) if each.name in arguments.prologues):
            for case in cases(prologue):
                found = times(chip, case, folder)
                named = f"{prologue.name}{' backward' if case.backward else ''}"
                of = {"format": case.format, "rotation": case.rotation, "rows": case.shape[0], "width": case.shape[1]}
                table.append({"chip": chip, "prologue": named, **of, **found})
                rotation, (rows, width) = case.rotation or "", case.shape
                told = f"{chip:4s} {named:16s} {case.format:6s}{rotation:4} {rows:6d} x {width:4d}"
                each = iter(found.values())
                print(f"{told:48s}" + "".join(f"{us:8.1f}{next(each):7.1f}" for us in each), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**made, "results": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
