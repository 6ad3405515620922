"""Names of columns and formats, and what a reader says of them."""

import pytest
from support.foreign import runs

from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.formats import meaning
from capscale.analysis.rows import read, read_all
from capscale.errors import UserError

PLAIN = runs()


@pytest.fixture
def reading(tmp_path):
    """Reads a frame as CSV, by the choices that are given as on a command line."""

    def read_frame(frame, *, strict=True, **choices):
        frame.to_csv(path := tmp_path / "runs.csv", index=False)
        return read_all(path, strict=strict, choices=Choices.parse(**choices))

    return read_frame


@pytest.mark.parametrize(
    "names",
    [
        {"N": "params", "D": "tokens", "loss": "val_loss", "weights": "w_format", "activations": "a_format"},
        {"N": "n_params", "D": "train_tokens", "loss": "valid/loss", "run": "name"},
        {"N": "non_embedding_params", "D": "tokens_seen", "loss": "eval/loss", "run": "run_id"},
        {"N": "model_size", "D": "n_tokens", "loss": "final_loss", "run": "Name"},
        {"N": "config.model.n_params", "D": "summary.tokens", "loss": "summary.val/loss", "run": "trajectory"},
        {"N": "numParams", "D": "Train Tokens", "loss": "Val Loss (nats)"},
    ],
    ids=str,
)
def test_common_names(names, reading):
    found = reading(PLAIN.rename(columns=names))
    assert found.table.rows == reading(PLAIN).table.rows
    said = {r.row for r in found.table.remarks}
    assert said == {f"column {name!r}" for name in names.values()}


def test_non_embedding_parameters_go_before_others_and_totals_are_said(reading):
    both = PLAIN.assign(non_embedding_params=PLAIN.N, params=PLAIN.N + 10**7).drop(columns="N")
    assert min(PLAIN.N) == reading(both).table.rows[0].N
    total = reading(PLAIN.rename(columns={"N": "total_params"})).table
    assert [r.what for r in total.remarks] == ["read as N: embeddings included, which no law here counts"]


def test_several_columns_for_one_are_refused_unless_they_agree(reading):
    with pytest.raises(UserError, match=r"columns 'loss', 'val_loss' could each be loss; choose one: --map loss=loss"):
        reading(PLAIN.assign(val_loss=PLAIN.loss + 0.1))
    assert len(reading(PLAIN.assign(val_loss=PLAIN.loss)).table) == 64
    found = reading(PLAIN.assign(val_loss=PLAIN.loss + 0.1), columns=["loss=val_loss"])
    assert min(found.table.column("loss")) == pytest.approx(PLAIN.loss.min() + 0.1)
    assert found.ignored == ("loss",)


def test_mapping_with_a_factor(reading):
    frame = PLAIN.assign(size_in_m=PLAIN.N / 1e6, final=PLAIN.loss / 0.5).drop(columns=["N", "loss"])
    found = reading(frame, columns=["N=size_in_m*1e6", "loss=final*0.5"]).table
    assert found.rows == reading(PLAIN).table.rows


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"columns": ["loss=nll"]}, r"--map loss=nll: no column 'nll'; there are \['D', 'N'"),
        ({"columns": ["lss=loss"]}, "--map lss=...: no such name"),
        ({"columns": ["N=N*many"]}, "'many' is no positive number"),
        ({"columns": ["N"]}, "write NAME=VALUE, such as loss=final_loss"),
        ({"columns": ["N=N", "N=D"]}, "--map says N=N and N=D"),
        ({"where": ["colour=red"]}, "--where colour: no such column"),
        ({"where": ["weights=int9"]}, "no row of 64; column 'weights' says 'dense', 'int4'"),
        ({"fill": ["activation=dense"]}, "--fill activation=dense: no such name"),
        ({"replace": ["4bit"]}, "--replace '4bit': write NAME=VALUE"),
    ],
)
def test_choices_that_name_nothing_are_refused(choices, message, reading):
    with pytest.raises(UserError, match=message):
        reading(PLAIN, **choices)


def test_rows_are_chosen(reading):
    table = reading(PLAIN, where=["weights=dense,INT4", "N=3e7"]).table
    assert {(r.weights, r.N) for r in table.rows} == {("dense", 3e7), ("int4", 3e7)}
    said = [r.what for r in table.remarks]
    assert said == ["32 of 64 rows", "8 of 32 rows"]


def test_a_column_that_is_not_there_is_asked_for_and_filled(reading):
    alone = PLAIN.drop(columns="activations")
    with pytest.raises(UserError, match=r"no column \['activations'\].*--fill activations=dense"):
        reading(alone)
    assert reading(alone, fill=["activations=dense"]).table.rows == reading(PLAIN).table.rows
    with pytest.raises(UserError, match=r"no column \['loss'\].*the logarithm of perplexity"):
        reading(PLAIN.rename(columns={"loss": "val_ppl"}))
    chart = PLAIN[["N"]].rename(columns={"N": "Step"}).assign(**{"a - val/loss": 1, "a - val/loss__MIN": 1})
    with pytest.raises(UserError, match="a chart's export, which has no sizes: export the table of runs"):
        reading(chart)


def test_other_numeric_columns_come_with_the_rows(reading):
    frame = PLAIN.assign(epochs=2, unique_tokens=PLAIN.D.map(lambda d: f"{d / 2e9:g}B"), optimizer="adam", gaps=None)
    frame["gaps"] = [0.5, *[None] * 63]
    found = reading(frame)
    assert set(found.extra) == {"epochs", "unique_tokens", "gaps"}
    assert found.ignored == ("optimizer",)
    for row in found.table.rows:
        assert (row.extra["epochs"], row.extra["unique_tokens"]) == (2, row.D / 2)
    assert sum(row.extra["gaps"] == 0.5 for row in found.table.rows) == 1
    assert found.table.sha256 != reading(PLAIN).table.sha256


WORDS = {
    "bf16": "dense", "FP16": "dense", "fp32": "dense", "none": "dense", "DENSE": "dense", "full precision": "dense",
    "INT4": "int4", "int-4": "int4", "int_4": "int4", "FP8 e4m3": "e4m3", "float8_e4m3fn": "e4m3", "NVFP4": "nvfp4",
    "MXFP4": "mxfp4", "MXFP8-E4M3": "mxfp8-e4m3", "2:4": "2:4", "2:4 + INT4": "2:4+int4",
    "INT4 [trust]": "int4 [trust]", "int1 [clip 1.3]": "int1 [clip 1.3]", "mine [v2]": "mine [v2]",
}  # fmt: skip


@pytest.mark.parametrize(("word", "name"), WORDS.items())
def test_names_of_formats(word, name):
    assert meaning(word)[:2] == (name, None)


@pytest.mark.parametrize(
    ("word", "sides"),
    [
        ("W4A16", ("int4", "dense")),
        ("w4a4", ("int4", "int4")),
        ("W8A8", ("int8", "int8")),
        ("int4/int8", ("int4", "int8")),
    ],
)
def test_names_of_both_operands(word, sides):
    assert meaning(word)[:2] == sides


@pytest.mark.parametrize(
    ("word", "among"), [("4bit", "int4, e2m1, mxfp4, nvfp4"), ("4", "int4"), ("fp8", "e4m3, e5m2"), ("FP4", "mxfp4")]
)
def test_a_word_for_several_formats_is_refused_with_their_names(word, among):
    with pytest.raises(UserError, match=f"does not say which format: .*{among}.*--replace"):
        meaning(word)


def test_an_unknown_format_is_the_tables_own_and_said(reading):
    frame = PLAIN.replace({"weights": {"int4": "int44"}})
    (remark,) = reading(frame).table.remarks
    assert remark.row == "weights 'int44'"
    assert "closest: int4" in remark.what
    assert not reading(frame.assign(weights_gmse=[0.1 if w == "int44" else None for w in frame.weights])).table.remarks


def test_one_column_says_both_operands(reading):
    words = {"dense": "BF16", "int4": "W4A4", "int3": "W3A16", "int2": "w2a16"}
    table = reading(PLAIN.assign(quant=PLAIN.weights.map(words)).drop(columns=["weights", "activations"])).table
    assert table.curves == ("dense", "int4 x int4", "int3", "int2") or set(table.curves) == {
        "dense", "int4 x int4", "int3", "int2",
    }  # fmt: skip
    with pytest.raises(UserError, match="quant says int4 activations, and activations dense"):
        reading(PLAIN.assign(quant=PLAIN.weights.map(words)).drop(columns="weights"))


def test_bits_are_asked_about_and_answered(reading):
    frame = PLAIN.assign(w_bits=PLAIN.weights.map({"dense": 16, "int4": 4, "int3": 3, "int2": 2}))
    frame = frame.drop(columns="weights")
    with pytest.raises(UserError, match="weights: '4' does not say which format"):
        reading(frame)
    table = reading(frame, replace=["4=int4", "3=int3", "2=int2"]).table
    assert table.rows == reading(PLAIN).table.rows


def test_a_loss_in_bits_by_its_name_is_converted(reading):
    frame = PLAIN.assign(**{"val_loss (bits)": PLAIN.loss / 0.6931471805599453}).drop(columns="loss")
    table = reading(frame).table
    assert table.column("loss") == pytest.approx(reading(PLAIN).table.column("loss"), rel=1e-12)
    with pytest.raises(UserError, match=r"no column \['loss'\].*bytes per token"):
        reading(PLAIN.rename(columns={"loss": "bits_per_byte"}))


def test_read_takes_the_same_choices(tmp_path):
    PLAIN.rename(columns={"loss": "x"}).to_csv(path := tmp_path / "runs.csv", index=False)
    assert len(read(path, choices=Choices.parse(["loss=x"]))) == 64
