"""Rows whose gradients are compressed: read back, told apart, and in no fit with rows whose gradients are dense."""

from typing import cast

import pytest
from support.synthetic import runs

from capscale.analysis.canonical import canonical_csv
from capscale.analysis.differences import other_estimators
from capscale.analysis.evidence import Evidence
from capscale.analysis.operands import kind_of
from capscale.analysis.records import row_of
from capscale.analysis.rows import read
from capscale.analysis.sentences.summary import _estimator
from capscale.analysis.study import Study
from capscale.analysis.table import make_table
from capscale.estimator_names import estimator_name
from capscale.estimators import STRAIGHT_THROUGH, TRUST
from capscale.recipes import backward_only, find_recipe
from capscale.representation import Representation, operand

INT8 = find_recipe("int8-training").gradients


def records():
    plain = runs({"int4": 0.7, "int2": 0.4})
    compressed = [r for r in runs({"int4": 0.6, "int2": 0.3}, gradients="int8-training") if r["weights"] != "dense"]
    backward = [
        {**r, "gradients": "int8-training", "loss": float(str(r["loss"])) + 0.01}
        for r in plain
        if r["weights"] == "dense"
    ]
    return [{**r, "run": f"run {i}"} for i, r in enumerate([*plain, *compressed, *backward])]


TABLE = make_table(records(), "made", strict=False)


def test_each_way_is_a_curve_of_its_own():
    assert set(TABLE.curves) == {
        *("dense", "int4", "int2", "int4, gradients int8-training", "int2, gradients int8-training"),
        "dense, gradients int8-training",
    }
    first = TABLE.first_of_curve
    assert first["dense"].is_dense
    assert not first["dense, gradients int8-training"].is_dense
    assert kind_of(first["int4"]) == "integer"
    assert kind_of(first["int4, gradients int8-training"]) == "integer, compressed gradients"


def test_a_law_of_error_leaves_them_out_and_says_so():
    plain = TABLE.plain()
    assert {r.gradients for r in plain.rows} == {"dense"}
    assert len(plain) < len(TABLE)
    told = [remark.what for remark in plain.remarks]
    assert "left out of the law of GMSE: int4, gradients int8-training compresses its gradients" in told


def test_a_table_is_read_back(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(canonical_csv(TABLE))
    again = read(path, strict=False)
    assert again.sha256 == TABLE.sha256
    assert [r.gradients for r in again.rows] == [r.gradients for r in TABLE.rows]


def test_digests_of_tables_without_are_as_they_were():
    plain = [r for r in records() if "gradients" not in r]
    said = [{**r, "gradients": "bf16"} for r in plain]
    assert make_table(plain, "x", strict=False).sha256 == make_table(said, "x", strict=False).sha256
    assert b"gradients" not in canonical_csv(make_table(plain, "x", strict=False))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "dense"),
        ("BF16", "dense"),
        ("quartet", "quartet"),
        ("dx: absmax-mid-tread-int8 x absmax-mid-tread-int8 given, "
         "dw: absmax-mid-tread-int8 x absmax-mid-tread-int8 given", "int8-training"),
        ("their own", "their own"),
    ],
)  # fmt: skip
def test_names_in_tables(text, name):
    assert row_of({"weights": "dense", "activations": "dense", "gradients": text}, 0, "x").gradients == name


def test_claims_find_the_rows_that_they_ask_for():
    estimators = {"weights_estimator": estimator_name(TRUST), "activations_estimator": estimator_name(STRAIGHT_THROUGH)}
    dense = {**estimators, "weights_estimator": estimator_name(STRAIGHT_THROUGH)}
    rows = [{**r, **(dense if r["weights"] == "dense" else estimators)} for r in records()]
    evidence = Evidence(tuple(rows), "made", "nano")
    recipe = Representation(operand("int4"), gradients=INT8)
    assert evidence.curve(Representation(operand("int4"))) == "int4"
    assert evidence.curve(recipe) == "int4, gradients int8-training"
    assert evidence.curve(backward_only(recipe)) == "dense, gradients int8-training"


@pytest.mark.ci
def test_what_they_cost_is_told_beside_the_format():
    measured = Evidence(tuple(records()), "made", "nano").capacities
    found = {d.first: d for d in other_estimators(TABLE, measured)}
    lost = found["int4, gradients int8-training"]
    assert lost.second == "int4"
    assert lost.rho.estimate == pytest.approx(-0.1, abs=0.05)
    assert _estimator(cast(Study, None), lost).endswith("GMSE cannot see how gradients are rounded.")
