"""Documents are found by local rules: any spans of a file give what reading it from the beginning gives."""

import io
import random

import pytest

from capscale.data import documents
from capscale.data.documents import decoded, separated, stretches
from capscale.errors import UserError

SEPARATORS = (b"\n", b"\n\n", b"ab", b"aba", b"\n<e>\n")


@pytest.fixture(params=[3, 7, 1 << 20])
def reads(request, monkeypatch):
    """Blocks of a few bytes: every separator is met across two of them."""
    monkeypatch.setattr(documents, "READ", request.param)


def texts(count):
    rng = random.Random(count)
    for _ in range(count):
        text = "".join(
            rng.choice(["a", "b", "\n", "é", "€", "\n\n", "aba", "\n<e>\n"]) for _ in range(rng.randrange(60))
        )
        content = text.encode()
        bounds = sorted({rng.randrange(1, len(content) + 5) for _ in range(3)})
        yield content, list(zip([0, *bounds], [*bounds, None], strict=True))


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separated_by_brute_force(separator, reads):
    for content, _ in texts(150):
        found = [at for at in range(len(content)) if content.startswith(separator, at)]
        begins = [0, *(at + len(separator) for at in found)]
        expected = [(begin, content[begin:end]) for begin, end in zip(begins, [*found, len(content)], strict=True)]
        assert list(separated(io.BytesIO(content), separator)) == [pair for pair in expected if pair[1]]


@pytest.mark.parametrize("longest", [12, 1000])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_any_spans_give_the_same_documents(separator, longest, reads):
    for content, spans in texts(150):
        whole = list(separated(io.BytesIO(content), separator, longest=longest))
        parts = [
            pair
            for first, last in spans
            for pair in separated(io.BytesIO(content), separator, first, last, longest=longest)
        ]
        assert parts == whole


def test_long_documents_are_cut_between_characters_and_lose_nothing(reads):
    for content, _ in texts(300):
        pieces = list(separated(io.BytesIO(content), b"\0", longest=12))
        assert b"".join(piece for _, piece in pieces) == content
        assert all(content[at : at + len(piece)] == piece and len(piece) <= 12 for at, piece in pieces)
        for _, piece in pieces:
            piece.decode()


def test_long_documents_are_cut_at_line_ends():
    content = b"one two\nthree four\nfive six seven"
    assert [piece for _, piece in separated(io.BytesIO(content), b"\0", longest=20)] == [
        b"one two\nthree four\n",
        b"five six seven",
    ]
    early = b"a\n" + b"b" * 40
    assert [len(piece) for _, piece in separated(io.BytesIO(early), b"\0", longest=20)] == [20, 20, 2]


def test_stretches_lose_nothing_and_any_spans_give_the_same(reads):
    for content, spans in texts(400):
        whole = list(stretches(io.BytesIO(content), length=8))
        assert b"".join(stretch for _, stretch in whole) == content
        for at, stretch in whole:
            assert content[at : at + len(stretch)] == stretch
            assert 0 < len(stretch) < 2 * 8 + 4
            stretch.decode()
        parts = [pair for first, last in spans for pair in stretches(io.BytesIO(content), first, last, length=8)]
        assert parts == whole


def test_stretches_end_at_line_ends():
    lines = b"".join(b"line %d\n" % number for number in range(100))
    assert all(stretch.endswith(b"\n") for _, stretch in stretches(io.BytesIO(lines), length=32))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"caf\xe9", b"a\0b", b"\xed\xa0\x80"])
def test_binary_is_refused_with_its_place(content):
    assert decoded("é".encode(), "here") == "é"
    with pytest.raises(UserError, match=r"^here is binary, not UTF-8 text"):
        decoded(content, "here")
