"""Files of every kind give the same documents, whole or in spans; what is damaged or not text is named."""

import bz2
import errno
import gzip
import json
import lzma
import os
import sys

import pytest
from etils import epath
from support import texts

from capscale.data import inputs
from capscale.data.hub import Dataset
from capscale.data.inputs import Span, find_files, share_out
from capscale.data.load import load_source
from capscale.errors import UserError

pyarrow = pytest.importorskip("pyarrow", reason="Parquet and .zst are read by pyarrow, which is not installed")


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {"": lambda content: content, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def write_parquet(path, documents=None, **options):
    from pyarrow import parquet

    documents = texts.documents() if documents is None else documents
    table = pyarrow.table({"id": list(range(len(documents))), "text": documents})
    parquet.write_table(table, path, **options)
    return path


def read(path, **options):
    """The documents of a file by way of its parts."""
    parts = share_out([epath.Path(path)], options.get("separator", texts.SEPARATOR), options.get("field", "text"))
    return [text for part in parts for span in part for text in span.documents()]


@pytest.mark.parametrize("part", [4096, 1 << 20], ids=["many parts", "one part"])
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "json"])
def test_kinds_agree(kind, compression, part, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "PART", part)
    content = texts.SEPARATOR.join(texts.documents()).encode() if kind == "txt" else texts.json_lines()
    path = tmp_path / f"text.{kind}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    assert read(path) == list(texts.documents())
    count = len(share_out([epath.Path(path)], texts.SEPARATOR, "text"))
    assert count == (-(-len(content) // part) if not compression else 1)


@pytest.mark.parametrize("part", [4096, 1 << 20], ids=["many parts", "one part"])
def test_parquet(part, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "PART", part)
    path = write_parquet(tmp_path / "text.parquet", row_group_size=7)
    assert read(path) == list(texts.documents())
    assert (len(share_out([epath.Path(path)], None, "text")) > 5) == (part == 4096)


def test_text_without_separator_is_cut_at_line_ends(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {number} é\n" for number in range(20_000)))
    found = read(path, separator=None)
    assert "".join(found) == path.read_text()
    assert len(found) == -(-path.stat().st_size // (1 << 16))
    assert all(stretch.endswith("\n") for stretch in found)


def test_empty_documents_are_left_out(tmp_path):
    (tmp_path / "text.jsonl").write_bytes(texts.json_lines(("a", "", "b")) + b"\n  \n" + texts.json_lines(("c",)))
    assert read(tmp_path / "text.jsonl") == ["a", "b", "c"]
    (tmp_path / "text.txt").write_text(texts.SEPARATOR.join(["", "a", "", "", "b", ""]))
    assert read(tmp_path / "text.txt") == ["a", "b"]
    assert read(write_parquet(tmp_path / "text.parquet", ["a", "", "b"])) == ["a", "b"]


def test_small_files_share_a_part_and_order_is_by_name(tmp_path):
    names = ["b/2.txt", "a/1.jsonl", "a/10.txt", "c.text", ".hidden.txt", ".git/x.txt", "notes.md", "empty.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else '{"text": "a"}\n')
    found = find_files([str(tmp_path)])
    assert [name for name, _ in found] == ["a/1.jsonl", "a/10.txt", "b/2.txt", "c.text"]
    assert len(share_out([path for _, path in found], None, "text")) == 1
    assert [name for name, _ in find_files([str(tmp_path / "c.text"), str(tmp_path / "a")])] == [
        "c.text",
        "1.jsonl",
        "10.txt",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", r"input '.*missing.txt' does not exist; check the path, or name a Hugging Face data set"),
        ("notes.md", r"is of no known kind; give .txt"),
        ("empty.txt", r"'.*empty.txt' is empty"),
        ("bare", r"holds no .txt, .text, .jsonl"),
        ("t.parquet.gz", "is of no known kind"),
    ],
)
def test_inputs_that_are_none_are_refused(name, message, tmp_path):
    (tmp_path / "bare").mkdir()
    for made, content in (("notes.md", "a"), ("empty.txt", ""), ("t.parquet.gz", "a")):
        (tmp_path / made).write_text(content)
    with pytest.raises(UserError, match=message):
        find_files([str(tmp_path / name)])


def test_what_datasets_saved_is_refused_with_what_to_do(tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").write_text("{}")
    (saved / "dataset_info.json").write_text("{}")
    remedy = r"saved is a data set that datasets' save_to_disk wrote; .*load_from_disk\('.*saved'\).to_parquet"
    for refusing in (lambda: find_files([str(saved)]), lambda: load_source(str(saved)), Dataset(str(saved)).shards):
        with pytest.raises(UserError, match=remedy):
            refusing()
    (tmp_path / "dataset_dict.json").write_text("{}")
    for refusing in (lambda: find_files([str(tmp_path)]), lambda: load_source(str(tmp_path))):
        with pytest.raises(UserError, match=r"read one by `capscale data prepare --dataset .* --split NAME`"):
            refusing()


def test_directory_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """It was left out of the data, and nothing said so. (The tests may run as root, who can read all.)"""
    for name in ("open", "shut", ".shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"/shut cannot be read \(Permission denied\); check it"):
        find_files([str(tmp_path)])
    (tmp_path / "shut").rename(tmp_path / ".hidden-shut")
    assert [name for name, _ in find_files([str(tmp_path)])] == ["open/a.txt"]


def test_link_to_nothing_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "notes.md").symlink_to("gone")
    assert [name for name, _ in find_files([str(tmp_path)])] == ["a.txt"]
    (tmp_path / "b.txt").symlink_to("gone")
    with pytest.raises(UserError, match=r"/b.txt cannot be read \(No such file or directory\); check it"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize("given", [("mix", "mix"), ("mix", "mix/en"), ("mix/en/a.txt", "mix"), ("mix", "link.txt")])
def test_file_that_is_given_twice_is_refused(given, tmp_path, monkeypatch):
    """Documents that are held out would be counted twice, and trained on as often."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mix" / "en").mkdir(parents=True)
    (tmp_path / "mix" / "en" / "a.txt").write_text("a")
    (tmp_path / "mix" / "b.txt").write_text("a")
    (tmp_path / "link.txt").symlink_to("mix/b.txt")
    first, second = given
    with pytest.raises(UserError, match=rf"\(input '{second}'\) is the same file as .* \(input '{first}'\); drop one"):
        find_files(given)
    assert len(find_files(["mix/en", "mix/b.txt"])) == 2


GOOD = texts.json_lines()
BAD_CONTENTS = {
    "a.txt": (b"text\xff\xfe" * 9, r"a.txt \(byte 0\) is binary, not UTF-8 text"),
    "nul.txt": (b"text\0text", r"it holds NUL"),
    "b.jsonl": (GOOD + b'{"text": \n', rf"b.jsonl \(line at byte {len(GOOD):,}\) is not JSON"),
    "list.jsonl": (b'["text"]\n', "holds list, not an object with a field 'text'"),
    "field.jsonl": (b'{"content": "a", "url": "b"}\n', "has no field 'text'; its fields: content, url. Choose one by"),
    "tokens.jsonl": (b'{"text": [1, 2]}\n', "field 'text' holds list, not text; .* turn tokens back into text first"),
    "none.jsonl": (
        b'{"text": null}\n',
        r"none.jsonl \(line at byte 0\): field 'text' is null, not text; drop the record",
    ),
    "nul.jsonl": (b'{"text": "a\\u0000b"}\n', r"nul.jsonl .*: field 'text' is not text \(it holds NUL\); mend or drop"),
    "deep.jsonl": (b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", r"deep.jsonl .line at byte 0. is not JSON"),
    "half.jsonl": (json.dumps({"text": "\ud800"}).encode(), "is not text .surrogates"),
    "binary.jsonl": (bytes(range(128, 256)), "is not JSON"),
    "cut.json.gz": (gzip.compress(GOOD)[:-9], "cut.json.gz cannot be read .*fetch it again"),
    "not.json.gz": (GOOD, "not.json.gz cannot be read .*Not a gzipped file"),
    "flipped.json.gz": (gzip.compress(GOOD)[:300] + b"xyz" + gzip.compress(GOOD)[303:], "flipped.json.gz .*"),
    "cut.txt.bz2": (bz2.compress(GOOD)[:-9], "cut.txt.bz2 cannot be read"),
    "cut.txt.xz": (lzma.compress(GOOD)[:-9], "cut.txt.xz cannot be read"),
    "not.txt.xz": (GOOD, "not.txt.xz cannot be read"),
    "cut.txt.zst": (zstd(GOOD)[:-9], "cut.txt.zst cannot be read .Truncated compressed stream"),
    "not.parquet": (GOOD, "not.parquet cannot be read .*Parquet magic bytes not found"),
}


@pytest.mark.parametrize("name", BAD_CONTENTS)
def test_bad_contents_are_named(name, tmp_path):
    content, message = BAD_CONTENTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_damaged_parquet_is_named(tmp_path):
    content = bytearray(write_parquet(tmp_path / "text.parquet", compression="zstd").read_bytes())
    content[200:1200] = bytes(1000)
    (tmp_path / "text.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"text.parquet cannot be read"):
        read(tmp_path / "text.parquet")
    with pytest.raises(UserError, match="has no field 'words'; its fields: id, text"):
        read(write_parquet(tmp_path / "whole.parquet"), field="words")
    with pytest.raises(UserError, match=r"whole.parquet \(row 0\): field 'id' holds int, not text"):
        read(tmp_path / "whole.parquet", field="id")


@pytest.mark.parametrize(("text", "message"), [(None, "null, not text; drop the"), ("a\0", r"not text \(it holds NUL")])
def test_parquet_rows_without_text_are_named(text, message, tmp_path):
    path = write_parquet(tmp_path / "text.parquet", [*["a"] * 70, text])
    with pytest.raises(UserError, match=rf"text.parquet \(row 70\): field 'text' is {message}"):
        read(path)


def test_parquet_text_that_is_not_utf8_is_named_with_its_row(tmp_path):
    documents = pyarrow.array([b"a"] * 99 + [b"caf\xe9", b"z"])  # Latin-1
    strings = pyarrow.StringArray.from_buffers(101, *documents.buffers()[1:])
    path = write_parquet(tmp_path / "text.parquet", strings, row_group_size=30)
    with pytest.raises(
        UserError, match=r"text.parquet \(row 99\): field 'text' is not UTF-8 text .*; mend or drop the"
    ):
        read(path)


@pytest.mark.parametrize("name", ["text.parquet", "text.txt.zst"])
def test_missing_package_is_named(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"content")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the package pyarrow; it comes with `pip install 'capscale\[data\]'`"):
        read(tmp_path / name)


def test_errors_of_whoever_uses_the_documents_stay_what_they_are(tmp_path):
    path = texts.write_text(tmp_path / "text.txt")
    with pytest.raises(OSError, match="mine"):  # noqa: PT012
        for _ in Span(str(path), separator=texts.SEPARATOR).documents():
            raise OSError("mine")


def test_line_that_is_too_long_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LONGEST_LINE", 10_000)
    for length, fits in ((10_000, True), (10_001, False)):
        line = json.dumps({"text": "a" * (length - 12)}).encode()
        assert len(line) == length
        (tmp_path / "long.jsonl").write_bytes(GOOD + line + b"\n")
        found = Span(str(tmp_path / "long.jsonl")).documents()
        if fits:
            assert len(list(found)) == 201
        else:
            with pytest.raises(
                UserError, match=rf"long.jsonl .line at byte {len(GOOD):,}. is longer than 10,000 bytes"
            ):
                list(found)
