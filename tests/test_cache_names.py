"""Names of compressed keys and values, in and out, and where rows and reports say them."""

import pytest
from support import tiny
from support.synthetic import runs

from capscale.analysis.canonical import canonical_csv
from capscale.analysis.operands import kind_of
from capscale.analysis.rows import read
from capscale.analysis.table import make_table
from capscale.cache_names import cache_name, find_cache
from capscale.errors import UserError
from capscale.models.coverage import cache_bytes
from capscale.models.ladder import find_size
from capscale.policy_names import find_representation, representation_name
from capscale.representation import DENSE, Representation, operand
from capscale.sweep.display import run_name


def held(text, **others):
    keys, values = find_cache(text)
    return Representation(keys=keys, values=values, **others)


@pytest.mark.parametrize(
    "text",
    [
        "dense",
        "int4",
        "keys int4",
        "values int2",
        "keys int4 values int2",
        "keys top50-row [fw] values nvfp4-row",
        "nf4-g16",
    ],
)
def test_names_read_back(text):
    for hadamard in (None, 8):
        once = held(text, hadamard=hadamard)
        assert held(cache_name(once), hadamard=hadamard) == once
    assert cache_name(held(text)) == text


def test_equal_sides_are_said_once():
    assert cache_name(held("keys int4 values int4")) == "int4"


@pytest.mark.parametrize("text", ["", "keys", "int4 values int2", "values", "keys int4 values", "unknown5"])
def test_other_words_are_refused(text):
    with pytest.raises(UserError):
        find_cache(text)


def test_representations_say_them_on_one_line():
    text = "int4 x int8 hadamard 128 signs 7 cache keys int4 values int2 gradients quartet"
    found = find_representation(text)
    assert cache_name(found) == "keys int4 values int2"
    assert representation_name(found) == text
    assert find_representation("dense cache int4").weights.is_dense
    assert find_representation("int4").caches_compressed is False


def records():
    plain = runs({"int4": 0.7})
    cached = [{**r, "cache": "int2", "loss": float(str(r["loss"])) + 0.01} for r in plain]
    return [{**r, "run": f"run {i}"} for i, r in enumerate([*plain, *cached])]


def test_each_is_a_curve_of_its_own_and_left_out_of_a_law_of_error():
    table = make_table(records(), "made", strict=False)
    assert set(table.curves) == {"dense", "int4", "dense, cache int2", "int4, cache int2"}
    assert not table.first_of_curve["dense, cache int2"].is_dense
    assert kind_of(table.first_of_curve["int4, cache int2"]) == "integer, compressed cache"
    plain = table.plain()
    assert {row.cache for row in plain.rows} == {"dense"}
    said = "left out of the law of GMSE: int4, cache int2 compresses its keys and values"
    assert said in [remark.what for remark in plain.remarks]


def test_a_table_is_read_back_and_others_are_as_they_were(tmp_path):
    table = make_table(records(), "made", strict=False)
    path = tmp_path / "runs.csv"
    path.write_bytes(canonical_csv(table))
    assert read(path, strict=False).sha256 == table.sha256
    without = [{k: v for k, v in r.items() if k != "cache"} for r in records() if "cache" not in r]
    said = [{**r, "cache": "bf16"} for r in without]
    assert make_table(without, "x", strict=False).sha256 == make_table(said, "x", strict=False).sha256
    assert b"cache" not in canonical_csv(make_table(without, "x", strict=False))


@pytest.mark.ci
def test_a_run_says_it(tmp_path):
    run = tiny.run(representation=held("keys int4 values int2"))
    assert run_name(run) == "tiny dense, cache keys int4 values int2, seed 0"
    row = tiny.train_one(run, tmp_path)["row"]
    assert row["cache"] == "keys int4 values int2"
    assert "cache" not in tiny.train_one(tiny.run(representation=DENSE), tmp_path / "dense")["row"]


def test_bytes_of_a_token():
    """A float32 scale lies beside the codes of each head."""
    model = find_size("30M")
    heads = model.layers * model.keys_and_values
    assert cache_bytes(model, DENSE) == heads * model.features_per_head * 2 * 2
    found = cache_bytes(model, held("keys int4 values nvfp4"))
    assert found == heads * ((4 * model.features_per_head + 32) + (4.5 * model.features_per_head + 32)) / 8
    with pytest.raises(UserError, match="does not say how it is stored"):
        cache_bytes(model, Representation(keys=operand("noise3", per_token=True)))
