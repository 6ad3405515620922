import numpy as np
import pytest
from synthetic import RHO, TRUTH

from capscale.analysis.laws import LAWS
from capscale.analysis.operands import facts, gaussian_error
from capscale.analysis.table import make_table
from capscale.analysis.validation import format_masks, largest_mask, law_bench, size_masks, validate

NAMES = ("dense", "int2", "int4", "top50", "2:4", "2:4+int4", "top50+int4")


def sparse_and_quantized(product: bool):
    """Runs whose composed formats have either the capacity of the joint error, or the product of the stages'."""
    random, rows = np.random.default_rng(0), []
    for name in NAMES:
        stages = facts(name).stages if product else (name,)
        rho = np.prod([1.0 if s == "dense" else float(RHO.rho(gaussian_error(s))) for s in stages])
        for N in np.geomspace(3e7, 1e9, 5):
            for ratio in (20, 200):
                loss = float(TRUTH.loss(N, ratio * N, rho) + random.normal(0, 0.002))
                rows.append({"N": N, "D": ratio * N, "loss": loss, "weights": name, "activations": "dense"})
    return make_table(rows, "x")


@pytest.mark.parametrize("product", [False, True])
def test_bench_tells_joint_error_from_product_of_stages(product):
    bench = {v.law.name: v for v in law_bench(sparse_and_quantized(product), ("tanh",))}
    right, wrong = ("tanh-product", "tanh") if product else ("tanh", "tanh-product")
    assert bench[right].line["fit"] < 0.0025
    assert bench[wrong].line["fit"] > 1.3 * bench[right].line["fit"]


def test_the_largest_third_of_the_sizes_is_held_out():
    rows = [
        {"N": N, "D": 1e9, "loss": 3.0 - i / 10, "weights": name, "activations": "dense"}
        for i, N in enumerate((1e6, 2e6, 3e6, 4e6, 5e6, 6e6, 7e6))
        for name in ("dense", "int4")
    ]
    table = make_table(rows, "x")
    np.testing.assert_array_equal(np.sort(table.column("N")[largest_mask(table)]), np.sort(table.column("N"))[-4:])
    np.testing.assert_array_equal(largest_mask(table, above=3e6), table.column("N") > 3e6)
    two = make_table(rows[:4], "x")
    assert largest_mask(two).sum() == 2, "of two sizes one"


def test_folds_cover_every_compressed_row_once():
    table = sparse_and_quantized(False)
    dense = np.array([r.is_dense for r in table.rows])
    np.testing.assert_array_equal(sum(m.astype(int) for m in format_masks(table).values()), ~dense)
    assert np.all(sum(m.astype(int) for m in size_masks(table).values()) == 1)


def test_held_out_rows_have_no_say():
    table = sparse_and_quantized(False)
    before = {f.name: f for f in validate(table, LAWS["tanh"]).formats}["int2"]
    records = [r._asdict() | {"loss": r.loss + 0.2 * (r.curve == "int2")} for r in table.rows]
    after = {f.name: f for f in validate(make_table(records, "x"), LAWS["tanh"]).formats}["int2"]
    np.testing.assert_allclose(after.errors, before.errors + 0.2, atol=1e-4)
