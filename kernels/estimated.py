"""From how many rows on products of codes are faster than those of values, by the schedules of compilers.

Estimates: no chip was asked. `python scripts/tpu_products.py` makes docs/benchmarks/products-tpu.json, and
these numbers of it.
"""

from .matmul.codes import Kind

FEWEST_ROWS: dict[tuple[str, Kind], int] = {}
"""By chip and kind of product. Empty: of what was estimated, int4 at 30M on v5e, codes are slower for what it takes to
make them."""


def slower_codes(chip: str | None, kind: Kind, rows: int) -> str | None:
    """Why values are multiplied in place of codes, for so many rows on a device of this chip; None where codes are."""
    fewest = FEWEST_ROWS.get((chip or "", kind))
    if fewest is None:
        return f"products of {kind} codes were not found faster on {chip or 'this device'}"
    return None if rows >= fewest else f"products of {kind} codes were estimated faster on {chip} from {fewest} rows on"
