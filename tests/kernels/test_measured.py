""" "auto" leaves to XLA the kernels that the committed measurement found slower."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import pytest
from capscale.kernels import config, dispatch, measured
from capscale.kernels.dispatch import choose, force, target
from capscale.kernels.project import Unsupported, op

from capscale.defaults import default_estimator
from capscale.formats.catalog import find
from capscale.fused import spec_of

MEASURED = Path(__file__).parents[2] / "docs" / "benchmarks" / "device-h200-tiles.json"


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv(config.KERNELS, raising=False)
    monkeypatch.setattr(dispatch, "_decided", {})


def rows(part):
    return {row["case"]: row for row in json.loads(MEASURED.read_text())["rows"] if row["part"] == part}


def spec_named(name, rotation=None):
    spec = spec_of(find(name), default_estimator(find(name), rotation is not None), rotation, rotation is not None)
    assert not isinstance(spec, Unsupported)
    return spec


KINDS = {
    "int4": "rows of one scale, levels of equal steps",
    "e2m1": "rows of one scale, levels of unequal steps",
    "2:4": "N:M patterns",
    "2:4+int4": "N:M patterns, then levels",
    "int4-g32": "groups",
    "higgs-d2-n16": "codebooks",
    "int4+h128": "rotated rows",
}


@pytest.mark.parametrize(("case", "kind"), KINDS.items())
def test_the_table_is_the_measurement(case, kind):
    row = rows("projections")[f"{case} bfloat16"]
    times = measured.HOPPER_PROJECTIONS[kind]
    assert times == (round(row["us"]), round(row["reference_us"]))
    assert measured.kind_of(spec_named(case.removesuffix("+h128"), 128 if "+h128" in case else None)) == kind
    assert set(KINDS.values()) == set(measured.HOPPER_PROJECTIONS)


def test_every_case_that_was_measured_runs_by_the_faster():
    for case, row in rows("projections").items():
        name = case.split()[0]
        spec = spec_named(name.removesuffix("+h128"), 128 if "+h128" in name else None)
        left = measured.slower_projection(spec, "gpu") is not None
        assert left == (row["us"] > row["reference_us"]), case
        assert measured.slower_projection(spec, "tpu") is None


@pytest.mark.parametrize("name", ["int1", "int8", "lsq4", "ternary"])
def test_integers_of_any_width_are_as_int4(name):
    assert measured.kind_of(spec_named(name)) == KINDS["int4"]


@pytest.mark.parametrize("name", ["e4m3", "lloyd4"])
def test_other_levels_are_as_e2m1(name):
    assert measured.kind_of(spec_named(name)) == KINDS["e2m1"]


def test_the_log_says_what_was_measured(caplog):
    x = jnp.zeros((256, 256), jnp.bfloat16)
    chosen = {}
    with caplog.at_level(logging.INFO, "capscale.kernels"), target("gpu"):
        for name in ("int4", "e2m1"):
            chosen[name] = op.choose(spec_named(name), x, name).backend
        with force("require"):
            assert op.choose(spec_named("e2m1"), x, "e2m1").backend == "gpu"
        assert op.choose(replace(spec_named("e2m1"), rotation=128), x, "e2m1").backend == "gpu"
    assert chosen == {"int4": "gpu", "e2m1": "reference"}
    assert caplog.records[1].getMessage() == (
        "project bfloat16[256, 256] e2m1: XLA, as it was measured faster on rows of one scale, levels of unequal "
        "steps: 106 us, 120 by the kernel"
    )


@pytest.mark.parametrize(("rows", "backend"), [(512, "gpu"), (567, "gpu"), (568, "reference"), (4096, "reference")])
def test_many_rows_unpack_weights_for_cublas(rows, backend):
    with target("gpu"):
        assert choose("matmul", f"{rows}", lambda _: None, partial(measured.slower_product, rows)) == backend
    with target("tpu"):
        assert choose("matmul", f"{rows}", lambda _: None, partial(measured.slower_product, rows)) == "tpu"


def test_products_change_sides_where_the_times_meet():
    few, many = (rows("products")[f"{count} rows"] for count in (512, 1024))
    ahead, behind = few["unpacked_us"] - few["us"], many["us"] - many["unpacked_us"]
    assert ahead > 0
    assert behind > 0
    assert round(512 + 512 * ahead / (ahead + behind)) == measured.HOPPER_PRODUCT_ROWS
