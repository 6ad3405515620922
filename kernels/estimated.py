"""Where products of codes are faster than those of values, by the schedules of compilers.

Estimates: no chip was asked. `python scripts/tpu_products.py` makes docs/benchmarks/products-tpu.json, and
these numbers of it.
"""

from .matmul.codes import Pair, Steps

MARGIN = 0.05
"""Share of the time of values by which codes have to be faster on every row of the table for such inputs."""

INT4 = Pair("int8", Steps(0.5), Steps(0.5))
"""Of integers of up to 7 bits without a zero."""

FEWEST_ROWS: dict[tuple[str, Pair], dict[int, int]] = {
    ("v5e", INT4): {1280: 4096, 1792: 4096, 2048: 256, 3584: 256, 5632: 256},
}
"""By chip and pair of codes: for so many inputs, the rows from which on codes are faster."""


def slower_codes(chip: str | None, pair: Pair, width: int, rows: int) -> str | None:
    """Why values are multiplied in place of codes, for so many rows of `width` inputs on a device of this chip.

    None where codes are.
    """
    of_pair = FEWEST_ROWS.get((chip or "", pair), {})
    if width not in of_pair:
        return (
            f"products of these {pair.kind} codes over {width} inputs were not found faster on {chip or 'this device'}"
        )
    fewest = of_pair[width]
    return None if rows >= fewest else f"products of codes were estimated faster on {chip} from {fewest} rows on"
