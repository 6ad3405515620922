""" "auto" multiplies codes where the committed estimates of compilers found that faster, and nowhere else."""

import json
from pathlib import Path

from capscale.kernels import estimated

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "docs" / "benchmarks" / "products-tpu.json").read_text())["results"]


def test_the_rule_is_that_of_the_table(monkeypatch):
    """By the script that makes it, which takes of made-up rows the least M from which on codes are faster on all."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from tpu_products import fewest_rows  # pyright: ignore[reportMissingImports]

    assert fewest_rows(ROWS) == estimated.FEWEST_ROWS
    made = [
        {"chip": "v5e", "kind": "int8", "M": M, "values_us": values, "codes_us": 10.0}
        for M, values in ((16, 11), (64, 9), (64, 11), (256, 11), (1024, 12))
    ]
    assert fewest_rows(made) == {("v5e", "int8"): 256}
    assert fewest_rows([*made, {**made[0], "M": 4096, "values_us": 9}]) == {}


def test_no_row_is_chosen_where_codes_are_slower():
    for row in ROWS:
        chosen = estimated.slower_codes(row["chip"], row["kind"], row["M"]) is None
        assert not chosen or row["codes_us"] < row["values_us"]
