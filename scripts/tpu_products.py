"""Time of products of codes against those of values on TPUs, by the schedules of their compiler.

    python scripts/tpu_products.py                       # needs libtpu (pip install 'jax[tpu]'), no TPU
    python scripts/tpu_products.py --json docs/benchmarks/products-tpu.json

Estimates, not measurements. Each row is what a layer does forward in a training step, of M rows: activations are
projected, which both products need, the one to multiply them and the other for its gradient; then these are multiplied
as bfloat16, or as the int8 codes that the projection writes beside them. Weights are there as each product reads them.
XLA's own cycles, and for kernels the cycles of their schedules or the time of their bytes, whichever is longer.
"Alone", of the first matrix: the product of what is there already in values or codes.
"""

import argparse
import json
from collections.abc import Iterable
from itertools import product as product_of_choices
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from about import about
from capscale.kernels import bundles, dispatch, estimated, products
from capscale.kernels.aot import compile_for_tpu
from capscale.kernels.matmul.codes import DTYPES, Multiplicand, Pair
from capscale.kernels.project import Unsupported
from jax import Array

from capscale.code_product import Codes, product_of_codes
from capscale.models.config import Projection
from capscale.models.ladder import PAPER
from capscale.product import product
from capscale.representation import (
    ProjectedWeight,
    Representation,
    codes_of,
    linear,
    operand,
    project_once,
)
from capscale.sweep.estimate import estimate
from capscale.sweep.schedule import read_schedule
from capscale.sweep.slices import Slice

SIZES, ROWS = ("30M", "200M", "800M"), (16, 256, 1024, 4096, 16384)
FORMATS = ("int4", "int8")
"""Of weights and activations, rotated by 128: codes of int4 are twice its levels, those of int8 have an offset."""
MODES: tuple[products.Products, ...] = ("values", "codes")
MATRICES: tuple[Projection, ...] = ("up", "out", "down")
"""Of a layer: those of inputs that two or three of them share, of inputs of their own, and of the widest."""
PLACE = ("chip", "kind", "format", "size", "M", "K", "F")
"""Columns that tell rows apart."""


def held_in(format: str) -> Representation:
    """The representation of such a format."""
    return Representation(operand(format), operand(format, per_token=True), hadamard=128)


def times(
    chip: str, held: Representation, shape: tuple[int, int, int], folder: Path, with_alone: bool
) -> dict[str, float]:
    """Estimated microseconds of a forward product (M, K, F) by either way, and of the product alone where asked."""
    rows, inputs, outputs = shape
    by = codes_of(held, inputs)
    assert not isinstance(by, Unsupported)
    dtype = DTYPES[by.pair.kind]
    x, value = (jax.ShapeDtypeStruct(of, jnp.bfloat16) for of in ((rows, inputs), (inputs, outputs)))
    x_codes, w_codes = (
        Multiplicand(*cast(Any, (jax.ShapeDtypeStruct(of, dtype), jax.ShapeDtypeStruct(scales, jnp.float32))))
        for of, scales in (((rows, inputs), (rows, 1)), ((inputs, outputs), (1, outputs)))
    )

    def layer(x: Array, value: Array, codes: Multiplicand) -> tuple[Array, Array]:
        once = project_once(x, held)
        return linear(once, ProjectedWeight(value, codes=codes), held), once.value

    def alone(x: Array, w: Array, x_codes: Multiplicand, w_codes: Multiplicand) -> Array:
        if products.mode() == "values":
            return product(x, w)
        return product_of_codes(x, w, Codes(x_codes, w_codes, by.pair))

    found = {}
    programs = (("", layer, (x, value, w_codes)), ("_alone", alone, (x, value, x_codes, w_codes)))
    for name, program, operands in programs[: 1 + with_alone]:
        for mode in MODES:
            for written in folder.iterdir():
                written.unlink()
            with dispatch.target("tpu", chip=chip), products.force(mode):
                text = compile_for_tpu(chip, program, *operands).as_text()
            step = estimate(read_schedule(text, 1), Slice(chip, "2x2"), 4, folder).step
            found[f"{mode}{name}_us"] = round(1e6 * step, 2)
    return found


def fewest_rows(results: Iterable[dict[str, Any]]) -> dict[tuple[str, Pair], dict[int, int]]:
    """By chip and pair of codes, by inputs, the least M from which on codes are faster on every row, by the margin.

    Of an M that has a row of every matrix of such inputs. Left out where there is none.
    """
    table: dict[tuple[str, Pair], dict[int, dict[int, dict[int, bool]]]] = {}
    for row in results:
        by = codes_of(held_in(row["format"]), row["K"])
        assert not isinstance(by, Unsupported)
        of_rows = table.setdefault((row["chip"], by.pair), {}).setdefault(row["K"], {})
        won = row["codes_us"] <= (1 - estimated.MARGIN) * row["values_us"]
        of_rows.setdefault(row["M"], {})[row["F"]] = won
    found: dict[tuple[str, Pair], dict[int, int]] = {}
    for place, of_widths in table.items():
        for width, of_rows in sorted(of_widths.items()):
            matrices = max(len(won) for won in of_rows.values())
            for rows, won in sorted(of_rows.items(), reverse=True):
                if not all(won.values()):
                    break
                if len(won) == matrices:
                    found.setdefault(place, {})[width] = rows
    return found


def main() -> None:
    """Prints a row for each chip, format, matrix and M, and the rule that follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write, row by row; other rows of it stay")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v6e"], choices=["v5e", "v6e"])
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--matrices", nargs="+", default=MATRICES, choices=MATRICES)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    arguments = parser.parse_args()
    folder = bundles.folder()
    assert folder is not None, "libtpu was loaded before it could be told to write schedules"
    made = about("jax", "libtpu")
    print(f"by schedules of libtpu {made['versions']['libtpu']}; estimates, nothing was run")
    print("chip  format  size      M      K      F   values us   codes us   alone: values us   codes us")
    path = None if arguments.json is None else Path(arguments.json)
    before = json.loads(path.read_text())["results"] if path is not None and path.exists() else []
    table: dict[tuple[Any, ...], dict[str, Any]] = {tuple(row[name] for name in PLACE): row for row in before}
    of = product_of_choices(arguments.chips, arguments.formats, arguments.sizes, arguments.matrices, arguments.rows)
    for chip, format, size, matrix, rows in of:
        inputs, outputs = PAPER.model(size, 1).projections[matrix]
        place = (chip, "int8", format, size, rows, inputs, outputs)
        found = times(chip, held_in(format), (rows, inputs, outputs), folder, matrix == MATRICES[0])
        table[place] = {**dict(zip(PLACE, place, strict=True)), **found}
        values, codes, *alone = found.values()
        told = f"{chip:5s} {format:6s} {size:5s} {rows:6d} {inputs:6d} {outputs:6d} {values:11.2f} {codes:10.2f}"
        print(told + (f" {alone[0]:18.2f} {alone[1]:10.2f}" if alone else ""), flush=True)
        if path is not None:
            rows_now = [table[place] for place in sorted(table)]
            path.write_text(json.dumps({**made, "results": rows_now}, indent=1) + "\n")
    for (chip, pair), widths in fewest_rows(table.values()).items():
        print(f"{chip} {pair}: {widths}")


if __name__ == "__main__":
    main()
