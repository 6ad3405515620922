"""Gradients of foreign tables: columns and words as people write them, read as ours, or refused with what is known."""

import pytest
from support.foreign import runs

from capscale.analysis.canonical import canonical_csv
from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.gradients import gradients_meant
from capscale.analysis.rows import read, read_all
from capscale.errors import UserError
from capscale.gradient_names import find_gradients

PLAIN = runs()


def both(format):
    return f"dx: {format} x dense, dw: {format} x dense"


WORDS = {
    "BF16": "dense", "none": "dense", "16": "dense", "E5M2": "fp8-e5m2", "FP8_E5M2": "fp8-e5m2",
    "float8_e4m3fn": "fp8-e4m3", "MXFP4 SR": both("mxfp4-stochastic"), "nvfp4-stochastic": both("nvfp4-stochastic"),
    "E5M2 (stochastic rounding)": both("e5m2-stochastic"), "NVFP4": both("nvfp4"), "mxfp8-e5m2 RTN": both("mxfp8-e5m2"),
    "Quartet": "quartet", "Quartet II": "quartet2", "NVFP4 pretraining": "nvfp4-pretraining",
    "DeepSeek-V3": "deepseek-fp8", "INT8 training": "int8-training", both("nvfp4"): both("nvfp4"),
    "dx: mine.Format x dense, dw: mine.Format x dense": "dx: mine.Format x dense, dw: mine.Format x dense",
}  # fmt: skip


@pytest.mark.parametrize(("word", "name"), WORDS.items())
def test_words_mean_gradients(word, name):
    assert gradients_meant(word) == name
    if "mine" not in name:
        find_gradients(name)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("FP8", r"a format, e4m3, e5m2, .* or a recipe, .*deepseek-fp8.*--replace 'FP8=fp8-e5m2', or 'gradients:FP8"),
        ("8", "does not say which gradients: a format, int8, e4m3, e5m2"),
        ("FP4 SR", "does not say which gradients: a format, e2m1, mxfp4, nvfp4, or a recipe"),
        ("signSGD", r"no known way to hold gradients.*quartet.*e4m3.*nvfp4.*--replace 'signSGD=signSGD'"),
        ("W4A4", "'W4A4' is no known way"),
        ("lsq4", "'lsq4' is no known way"),
    ],
)
def test_other_words_are_refused_with_what_is_known(word, message):
    with pytest.raises(UserError, match=message):
        gradients_meant(word)


@pytest.fixture
def reading(tmp_path):
    def read_frame(frame, **choices):
        frame.to_csv(path := tmp_path / "runs.csv", index=False)
        return read_all(path, choices=Choices.parse(**choices)).table

    return read_frame


@pytest.mark.parametrize("column", ["gradients", "grad_format", "bwd_precision", "config.gradient_dtype"])
def test_columns_are_found_and_said(column, reading):
    table = reading(PLAIN.assign(**{column: ["MXFP4 SR" if i % 16 > 7 else "bf16" for i in range(len(PLAIN))]}))
    assert {r.gradients for r in table.rows} == {"dense", both("mxfp4-stochastic")}
    (said,) = [r for r in table.remarks if r.row == f"column {column!r}"]
    assert f"MXFP4 SR is {both('mxfp4-stochastic')}" in said.what


def test_one_word_of_weights_and_of_gradients_is_told_apart(reading):
    frame = PLAIN.replace({"weights": {"int4": "FP8"}})
    frame["bwd_format"] = ["FP8" if w == "FP8" else "" for w in frame.weights]
    with pytest.raises(UserError, match=r"int4-\w+-25: bwd_format 'FP8' does not say"):
        reading(frame)
    table = reading(frame, replace=["FP8=e4m3", "gradients:FP8=fp8-e5m2"])
    assert {(r.weights, r.gradients) for r in table.rows} == {
        *(("dense", "dense"), ("int3", "dense"), ("int2", "dense"), ("e4m3", "fp8-e5m2"))
    }


def test_a_word_that_stands_for_itself_is_the_tables_own(reading, tmp_path):
    frame = PLAIN.assign(grad_format=["signSGD" if i % 16 > 7 else "dense" for i in range(len(PLAIN))])
    with pytest.raises(UserError, match="dense-300M-25: grad_format 'signSGD' is no known way"):
        reading(frame)
    table = reading(frame, replace=["signSGD=signSGD"])
    assert {r.gradients for r in table.rows} == {"dense", "signSGD"}
    (path := tmp_path / "again.csv").write_bytes(canonical_csv(table))
    assert read(path, choices=Choices.parse(replace=["signSGD=signSGD"])).sha256 == table.sha256
