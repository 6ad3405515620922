"""Separators, decimal marks, units, comments: one table written in many ways is one table."""

import pytest
from support.foreign import runs

from capscale.analysis.reading.numbers import read_numbers
from capscale.analysis.rows import read
from capscale.errors import UserError

PLAIN = runs()


def written(path, text):
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "runs.csv"
    PLAIN.to_csv(path, index=False)
    return read(path)


def short(value):
    return f"{value / 1e9:g}B" if value >= 1e9 else f"{value / 1e6:g} M"


@pytest.mark.parametrize(
    "options",
    [{"sep": ";"}, {"sep": "\t"}, {"sep": "|"}, {"sep": ";", "decimal": ","}, {"quoting": 1}, {"encoding": "utf-16"}],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "csv.gz"])
def test_separators_and_encodings_make_the_same_table(options, suffix, plain, tmp_path):
    PLAIN.to_csv(path := tmp_path / f"runs.{suffix}", index=False, **options)
    assert read(path).rows == plain.rows


@pytest.mark.parametrize(
    ("N", "D"),
    [
        (short, short),
        (lambda v: f"{v:,}", lambda v: f"{v:,}"),
        (lambda v: f"{v:e}", lambda v: f"{v / 1e12:.6g}T"),
        (lambda v: f"{v / 1e6:g} million params", lambda v: f"{v / 1e9:g}bn tokens"),
        (lambda v: f"{v:_}", lambda v: f"{v:,}".replace(",", " ")),
        (lambda v: f"{v:,}".replace(",", "."), lambda v: f"{v:,}".replace(",", ".")),
    ],
)
def test_units_and_thousands_make_the_same_table(N, D, plain, tmp_path):
    frame = PLAIN.assign(N=PLAIN.N.map(N), D=PLAIN.D.map(D))
    frame.to_csv(path := tmp_path / "runs.csv", index=False, sep=";")
    table = read(path)
    assert table.rows == plain.rows
    said = {r.row: r.what for r in table.remarks}
    assert set(said) >= {"runs.csv"}


def test_units_are_shown(tmp_path):
    PLAIN.assign(N=PLAIN.N.map(short)).to_csv(path := tmp_path / "runs.csv", index=False)
    assert [tuple(r) for r in read(path).remarks] == [("column 'N'", "suffixes M, B")]


def test_units_in_the_header(plain, tmp_path):
    frame = PLAIN.assign(N=PLAIN.N / 1e6, D=PLAIN.D / 1e9).rename(columns={"N": "params (M)", "D": "train_tokens_B"})
    frame.to_csv(path := tmp_path / "runs.csv", index=False)
    table = read(path)
    assert table.rows == plain.rows
    assert {r.row: r.what for r in table.remarks} == {
        "column 'params (M)'": "read as N: taken as parameters without embeddings; times 1e+06",
        "column 'train_tokens_B'": "read as D: times 1e+09",
    }


def numbers(*cells, counts=False, comma=False):
    return read_numbers(cells, [f"row {i}" for i in range(len(cells))], "x", counts=counts, comma=comma).values


@pytest.mark.parametrize(
    ("cells", "counts", "values"),
    [
        (("30M", "0.3B", "1.2 T", "10k"), True, [3e7, 3e8, 1.2e12, 1e4]),
        (("4,1951", "3,963"), False, [4.1951, 3.963]),
        (("3,963",), False, [3.963]),
        (("30,000",), True, [30000]),
        (("1.000.000", "30.000"), True, [1e6, 3e4]),
        (("1.234,5",), False, [1234.5]),
        (("", "NA", "-", None), False, [None] * 4),
        (("0.1B", "0.07M"), True, [1e8, 7e4]),
        (("3.1 nats",), False, [3.1]),
    ],
)
def test_numbers(cells, counts, values):
    assert numbers(*cells, counts=counts) == values


@pytest.mark.parametrize(
    ("cells", "counts", "message"),
    [
        (("4,5", "4.7"), False, "decimal commas and decimal points"),
        (("4,1951", "3.963"), False, "decimal commas and decimal points"),
        (("1,500M",), True, "with a decimal comma or without"),
        (("high",), False, "row 0: x='high' is no number"),
        (("3M",), False, "is no number"),
        (("1,23,456",), True, "is no number"),
        ((True,), False, "is no number"),
    ],
)
def test_what_is_no_number_or_two_is_refused(cells, counts, message):
    with pytest.raises(UserError, match=message):
        numbers(*cells, counts=counts)


def test_a_comment_is_a_line_that_starts_with_it(plain, tmp_path):
    frame = PLAIN.assign(note=["bad node #3, see #12" if w == "int4" else "" for w in PLAIN.weights])
    text = "# made by hand\n" + frame[["run", "note", *frame.columns[1:-1]]].to_csv(index=False)
    table = read(written(tmp_path / "runs.csv", text))
    assert table.rows == plain.rows
    assert [r.what for r in table.remarks] == ["1 lines that start with # are comments"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,N,D,loss\na,1,2\n", "line 2 has 3 cells, and the header 4"),
        ("run,N,D,loss\na,1,2,3,7\n", "line 2 has 5 cells, and the header 4; decimal commas"),
        ("run,N,N,loss\na,1,2,3\n", "the header names N twice"),
        ("# nothing\n", "no line that is not a comment"),
        ('run,N\n"a,1\n', "line 2 opens a quotation mark"),
        ("run,N\na\0,1\n", "zero bytes"),
    ],
)
def test_damaged_text_names_the_line(text, message, tmp_path):
    with pytest.raises(UserError, match=f"runs.csv: not a readable csv file: .*{message}"):
        read(written(tmp_path / "runs.csv", text))
    (tmp_path / "latin.csv").write_bytes("run,größe\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.csv: not a readable csv file: .*utf-8"):
        read(tmp_path / "latin.csv")


def test_a_table_of_markdown(plain, tmp_path):
    lines = [PLAIN.columns, ["---"] * len(PLAIN.columns), *PLAIN.itertuples(index=False)]
    text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    assert read(written(tmp_path / "runs.txt", text)).rows == plain.rows
