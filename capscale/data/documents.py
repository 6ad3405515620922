"""Documents of byte streams, cut by rules that need no memory of what came before.

Every rule is local: where a document begins follows from the bytes just before it. So a file can be read in spans, side
by side, and every document is found once, in the span that it begins in.
"""

from collections.abc import Iterator
from typing import BinaryIO

from capscale.errors import UserError

READ = 1 << 20
"""Bytes read at a time."""
LONGEST = 1 << 20
"""Bytes of the longest document; longer ones are cut into several, at line ends where there are any."""
STRETCH = 1 << 16
"""Bytes per document of a text that names no separator."""


def separated(
    file: BinaryIO, separator: bytes, first: int = 0, last: int | None = None, *, longest: int = LONGEST
) -> Iterator[tuple[int, bytes]]:
    """Documents between separators that begin at a byte in `[first, last)`, with the byte each begins at.

    A separator that overlaps the one before it counts as well, so the rule is local; empty documents are left out. What
    is longer than `longest` is cut, which bounds memory.
    """
    at, buffer = max(0, first - len(separator)), b""  # `buffer` holds the bytes from `at` on
    _skip(file, at)
    begin = start = 0 if first == 0 else None  # of the open document, and of its part that is not yet cut off
    search, more = at, True  # no separator begins before `search` that has not been seen
    while True:
        found = buffer.find(separator, search - at)
        if found >= 0:
            if start is not None:
                yield from _pieces(start, buffer[start - at : max(found, start - at)], longest)
            begin = start = at + found + len(separator)
            search = at + found + 1
        else:
            search = max(search, at + len(buffer) - len(separator) + 1)
        if last is not None and (search + len(separator) if begin is None else begin) >= last:
            return
        if found >= 0:
            continue
        if start is not None and at + len(buffer) - start > longest + len(separator):
            *whole, (start, _) = _pieces(start, buffer[start - at :], longest, len(separator))
            yield from whole
        if not more:
            break
        keep = search if start is None else min(start, search)
        block = file.read(READ)
        buffer, at, more = buffer[keep - at :] + block, keep, bool(block)
    if start is not None:
        yield from _pieces(start, buffer[start - at :], longest)


def _pieces(start: int, document: bytes, longest: int, spare: int = 0) -> Iterator[tuple[int, bytes]]:
    """A document that begins at `start`, cut after its last line end in the second half of every `longest` bytes.

    Cutting stops at `spare` bytes more than that, which may be the beginning of a separator.
    """
    while len(document) > longest + spare:
        line = document.rfind(b"\n", longest // 2, longest)
        size = line + 1 if line >= 0 else _character(document, longest)
        yield start, document[:size]
        start, document = start + size, document[size:]
    if document:
        yield start, document


def stretches(
    file: BinaryIO, first: int = 0, last: int | None = None, *, length: int = STRETCH
) -> Iterator[tuple[int, bytes]]:
    """A text without separators in stretches of about `length` bytes: cut at the first line end after every multiple.

    Those whose multiple lies in `[first, last)`, with the byte each begins at. Where a whole stretch has no line end,
    the cut falls between two characters.
    """
    number = -(-first // length)
    at = max(0, number * length - 4)  # the longest character has four bytes
    _skip(file, at)
    buffer = b""

    def boundary(of: int) -> int:
        nonlocal buffer
        low = max(0, of * length - 1 - at)
        while len(buffer) < low + length + 1 and (block := file.read(READ)):
            buffer += block
        if of == 0:
            return 0
        line = buffer.find(b"\n", low, low + length)
        return at + (line + 1 if line >= 0 else _character(buffer, min(low + 1, len(buffer))))

    start = boundary(number)
    while last is None or number * length < last:
        number += 1
        end = boundary(number)
        if end == start:
            if at + len(buffer) <= end:
                return
            continue
        yield start, buffer[start - at : end - at]
        start, buffer, at = end, buffer[end - at :], end


def decoded(document: bytes, place: str) -> str:
    """The text of a document; `UserError` naming its place when it is not UTF-8 or holds NUL."""
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place} is binary, not UTF-8 text ({error.reason}); convert it, for example with iconv -t utf-8"
        ) from error
    if "\0" in text:
        raise UserError(f"{place} is binary, not UTF-8 text (it holds NUL); give text, .jsonl or .parquet")
    return text


def _character(buffer: bytes, at: int) -> int:
    """The nearest place at or before `at` where a UTF-8 character begins; `at` itself where there is none nearby."""
    for place in range(at, max(at - 4, -1), -1):
        if place >= len(buffer) or buffer[place] & 0xC0 != 0x80:  # continuation bytes are 10xxxxxx
            return place
    return at


def _skip(file: BinaryIO, to: int) -> None:
    if to:
        file.seek(to)
