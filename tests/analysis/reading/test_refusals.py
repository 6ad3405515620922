"""Tables that were once read as something else: each kind is refused in words, or read as it is meant."""

import numpy as np
import pandas as pd
import pytest
from support.foreign import isoflop, runs, with_value

from capscale.analysis.reading.choices import Choices
from capscale.analysis.rows import read
from capscale.errors import UserError

PLAIN = runs()
INT4 = PLAIN.weights == "int4"


@pytest.fixture
def reading(tmp_path):
    def read_frame(frame, *, strict=True, **choices):
        frame.to_csv(path := tmp_path / "runs.csv", index=False)
        return read(path, strict=strict, choices=Choices.parse(**choices))

    return read_frame


@pytest.mark.parametrize("word", ["finished", "COMPLETED", "success", "ok", "done"])
def test_a_run_that_is_well_by_any_word_is_kept(word, reading):
    table = reading(PLAIN.assign(status=word))
    assert len(table) == 64
    assert not table.remarks


@pytest.mark.parametrize("word", ["diverged", "NaN", "loss_nan", "Exploded"])
def test_a_run_that_diverged_is_set_aside_by_name(word, reading):
    table = reading(with_value(PLAIN.assign(state="finished"), 5, state=word))
    assert len(table) == 63
    assert f"diverged, by its status '{word}'" in {r.row: r.what for r in table.remarks}[PLAIN.run[5]]


def test_unknown_words_are_asked_about(reading):
    frame = with_value(PLAIN.assign(status="finished"), 5, status="crashed")
    with pytest.raises(UserError, match=r"status 'crashed' \(1 rows\).*--replace 'crashed=ok' or 'crashed=diverged'"):
        reading(frame)
    assert len(reading(frame, replace=["crashed=diverged"])) == 63
    assert len(reading(frame, replace=["crashed=ok"])) == 64
    assert len(reading(frame, where=["status=finished"])) == 63


def test_a_run_without_a_loss_is_set_aside_by_name(reading):
    table = reading(with_value(PLAIN.assign(state="finished"), 5, loss=None))
    assert {r.row: r.what for r in table.remarks}[PLAIN.run[5]] == "set aside: it has no loss"
    with pytest.raises(UserError, match="32 of 64 rows would be set aside: 32 it has no loss"):
        reading(PLAIN.assign(loss=PLAIN.loss.where(PLAIN.index % 2 == 0)))


def test_truth_values_of_divergence(reading):
    assert len(reading(with_value(PLAIN.assign(diverged=False), 5, diverged=True))) == 63
    with pytest.raises(UserError, match="column 'diverged' says 'maybe'"):
        reading(PLAIN.assign(diverged="maybe"))


def test_never_half_a_table(reading):
    frame = PLAIN.assign(status=np.where(INT4, "ok", "diverged"))
    with pytest.raises(UserError, match=r"48 of 64 rows would be set aside: .*--keep-suspect"):
        reading(frame)
    assert len(reading(frame, strict=False)) == 16


@pytest.mark.parametrize("column", ["weights", "activations"])
@pytest.mark.parametrize("blank", [None, "NA", "-"])
def test_missing_is_not_dense(column, blank, reading):
    frame = PLAIN.astype({column: object})
    frame.loc[INT4, column] = blank
    with pytest.raises(UserError, match=f"{column} is missing in 16 rows: {PLAIN.run[16]}.*--fill {column}=dense"):
        reading(frame)
    filled = reading(frame, fill=[f"{column}={'int4' if column == 'weights' else 'dense'}"])
    assert filled.rows == reading(PLAIN).rows
    assert "in 16 empty cells" in [r.what for r in filled.remarks]


@pytest.mark.parametrize(
    "name", ["family", "corpus", "dataset", "tokenizer", "config.tokenizer", "Train Data", "vocab_size"]
)
def test_two_of_a_group_are_never_pooled(name, reading):
    first, second = ("32000", "50304") if name == "vocab_size" else ("llama", "olmo")
    other = PLAIN.assign(loss=PLAIN.loss + 0.4, run=PLAIN.run + "-b", **{name: second})
    both = pd.concat([PLAIN.assign(**{name: first}), other])
    with pytest.raises(UserError, match=rf"tells apart runs .*{first} \(64 rows\), {second} \(64 rows\).*--where"):
        reading(both)
    with pytest.raises(UserError, match="tells apart runs"):
        reading(both, strict=False)
    chosen = reading(both, where=[f"{name}={first}"])
    np.testing.assert_array_equal(chosen.column("loss"), reading(PLAIN).column("loss"))


def test_a_name_for_every_size_is_no_group(reading):
    assert len(reading(PLAIN.assign(arch=PLAIN.N.map(lambda n: f"d{n}")))) == 64


def test_repeats_are_held_against_the_noise(reading):
    again = PLAIN.assign(loss=PLAIN.loss + np.random.default_rng(1).normal(0, 0.004, 64), run=PLAIN.run + "-b")
    assert len(reading(pd.concat([PLAIN, again]))) == 128
    far = pd.concat([PLAIN, with_value(again, 7, loss=PLAIN.loss[7] + 0.2)])
    with pytest.raises(
        UserError, match=rf"differ by far more than the noise: {PLAIN.run[7]} .*{PLAIN.run[7]}-b .*where"
    ):
        reading(far)
    assert len(reading(far, strict=False)) == 128
    with pytest.raises(UserError, match="differ by far more than the noise"):
        reading(pd.concat([PLAIN, again.assign(loss=again.loss + 0.4)]))


def shifted(change):
    return lambda: change(PLAIN.astype({"N": float, "D": float}))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (shifted(lambda f: f.assign(N=f.N / 1e6)), r"more tokens per parameter.*--map N=COLUMN\*1e6"),
        (shifted(lambda f: f.assign(N=f.N / 1e3)), "more tokens per parameter"),
        (shifted(lambda f: f.assign(N=f.N / 1e9, D=f.D / 1e9)), "under 100 parameters"),
        (shifted(lambda f: f.assign(N=f.N / 1e6, D=f.D / 1e6)), "under 100 parameters"),
        (
            shifted(lambda f: with_value(f, 20, N=f.N[20] / 1e6)),
            rf"more tokens .*: {PLAIN.run[20]} .*correct these rows",
        ),
        (shifted(lambda f: with_value(f, 20, N=f.N[20] / 1e3)), rf"more tokens per parameter.*: {PLAIN.run[20]}"),
        (shifted(lambda f: f.assign(D=f.D / 1e9)), r"fewer tokens than parameters.*--map D=COLUMN\*1e6"),
        (shifted(lambda f: f.assign(D=f.D / 1e3)), "fewer tokens than parameters"),
        (shifted(lambda f: with_value(f, 20, D=f.D[20] / 1e3)), rf"fewer tokens than parameters: {PLAIN.run[20]} "),
        (shifted(lambda f: f.assign(loss=f.loss / np.log(2))), "looks like bits"),
        (
            shifted(lambda f: f.assign(loss=f.loss / np.where(INT4, np.log(2), 1))),
            rf"looks like bits.*: {PLAIN.run[16]} ",
        ),
        (shifted(lambda f: with_value(f, 20, loss=f.loss[20] / np.log(2))), rf"looks like bits.*: {PLAIN.run[20]} "),
    ],
)
def test_units_are_asked_about(frame, message, reading):
    with pytest.raises(UserError, match=f"{message}.*--keep-suspect"):
        reading(frame())
    assert len(reading(frame(), strict=False)) == 64


def test_isoflop_data_is_read(reading):
    frame = isoflop()
    assert (frame.D < frame.N).sum() > 5
    assert len(reading(frame)) == len(frame)
    with pytest.raises(UserError, match="fewer tokens than parameters"):
        reading(frame.assign(D=frame.D / 1e6))
