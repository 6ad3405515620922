"""Rows of one run: its checkpoints, unless its name stands for several."""

import pandas as pd
import pytest
from support.foreign import runs

from capscale.analysis.table import make_table

LAST = runs(("dense", "int4")).iloc[3::4]
"""The longest run of every size."""


def checkpoints(**change):
    rows = []
    for record in LAST.to_dict("records"):
        for step in (1, 2, 3):
            rows.append(
                record | {"D": record["D"] * step / 3, "loss": record["loss"] + 0.3 / step, "step": step} | change
            )
    return rows


def test_checkpoints_stay_rows_of_one_run():
    table = make_table(checkpoints(), "x")
    assert len(table) == 3 * len(LAST)
    counts = pd.Series([r.run for r in table.rows]).value_counts()
    assert set(counts) == {3}
    assert set(counts.index) == set(LAST.run)
    (remark,) = table.remarks
    assert remark.row.startswith("8 runs with several D (")
    assert "checkpoints of one run each" in remark.what


def test_epochs_that_grow_along_a_run_do_not_break_it_up():
    rows = [r | {"epochs": r["D"] / 1e9} for r in checkpoints()]
    assert {r.run for r in make_table(rows, "x").rows} == set(LAST.run)


def test_which_rows_are_of_one_run_is_part_of_the_digest_and_names_are_not():
    rows = [{k: v for k, v in r.items() if k != "step"} for r in checkpoints()]
    shared = make_table(rows, "x").sha256
    assert make_table([r | {"run": r["run"] + "'"} for r in rows], "x").sha256 == shared
    assert make_table([r | {"run": f"r{i}"} for i, r in enumerate(rows)], "x").sha256 != shared


def test_a_name_of_several_configurations_is_completed():
    table = make_table(checkpoints(run="llama"), "x")
    assert len({r.run for r in table.rows}) == len({(r.N, r.weights) for r in table.rows}) == 8
    assert any(r.run == "llama [int4 N=30000000]" for r in table.rows)


def test_a_name_of_a_whole_series_makes_no_run_of_it():
    rows = [{k: v for k, v in r.items() if k != "step"} for r in checkpoints(run="llama")]
    table = make_table(rows, "x")
    assert len({r.run for r in table.rows}) == len(table) == 24
    assert not table.remarks


def test_bits_per_byte_are_those_of_the_row_itself():
    """Not of another row with the same name."""
    rows = [r | {"bits_per_byte": 1.0, "run": "llama"} for r in LAST.to_dict("records")]
    assert len(make_table(rows, "x")) == 8
    rows[3]["bits_per_byte"] = rows[3]["loss"]
    with pytest.raises(Exception, match=r"looks like bits.*\(loss="):
        make_table(rows, "x")
