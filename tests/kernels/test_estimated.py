""" "auto" multiplies codes where the committed estimates of compilers found that faster, and nowhere else."""

import json
from pathlib import Path

import pytest
from capscale.kernels import dispatch, estimated, products
from capscale.kernels.matmul.codes import Pair, Steps

from capscale.representation import Representation, multiplied, operand

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "docs" / "benchmarks" / "products-tpu.json").read_text())["results"]


def test_the_rule_is_that_of_the_table(monkeypatch):
    """By the script that makes it, which takes of made-up rows the least M from which on codes are faster on all."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from tpu_products import fewest_rows  # pyright: ignore[reportMissingImports]

    assert fewest_rows(ROWS) == estimated.FEWEST_ROWS
    made = [
        {"chip": "v5e", "format": "int4", "K": 640, "M": M, "F": F, "values_us": values, "codes_us": 10.0}
        for M, F, values in (
            *((16, 8, 12), (16, 9, 12), (64, 8, 10.4), (64, 9, 12)),
            *((256, 8, 11), (256, 9, 12), (1024, 8, 12)),
        )
    ]
    pair = Pair("int8", Steps(0.5), Steps(0.5))
    assert fewest_rows(made) == {("v5e", pair): {640: 256}}
    others = [{**made[4], "K": 1280}, {**made[4], "format": "int8"}]
    assert fewest_rows([*made, *others])["v5e", pair] == {640: 256, 1280: 256}
    assert len(fewest_rows([*made, *others])) == 2
    assert fewest_rows([*made, {**made[0], "M": 4096, "values_us": 9}]) == {}
    assert fewest_rows([row for row in made if row["M"] in (64, 1024)]) == {}  # 1024 has one matrix of two


@pytest.mark.parametrize("format", sorted({row["format"] for row in ROWS}))
def test_a_layer_multiplies_what_the_table_says(format):
    """Codes from such M on as have every matrix, and are faster by the margin on all rows; values everywhere else."""
    held = Representation(operand(format), operand(format, per_token=True), hadamard=128)
    mine = [row for row in ROWS if row["format"] == format]
    with products.force("auto"):
        for row in mine:
            alike = [of for of in mine if (of["chip"], of["K"]) == (row["chip"], row["K"])]

            def won_from(M, alike=alike):
                whole = {of["F"] for of in alike if of["M"] == M} == {of["F"] for of in alike}
                return whole and all(of["codes_us"] <= 0.95 * of["values_us"] for of in alike if of["M"] >= M)

            with dispatch.target("tpu", chip=row["chip"]):
                chosen = multiplied(held, row["K"], row["M"]) is not None
            assert chosen == any(won_from(of["M"]) for of in alike if of["M"] <= row["M"]), row
        for chip, width in ((None, 640), ("v4", 640), ("v5e", 2176)):  # of which nobody asked
            with dispatch.target("tpu", chip=chip):
                assert multiplied(held, width, 16384) is None
