"""Files of text: which there are, how they are shared out, and the documents in them."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from etils import epath

from capscale.data.documents import decoded, separated, stretches
from capscale.data.records import no_field, text_of
from capscale.data.saved import refuse_saved
from capscale.errors import UserError
from capscale.files import parse_json
from capscale.storage import files_below

TEXT, LINES, PARQUET = (".txt", ".text"), (".jsonl", ".json", ".ndjson"), (".parquet",)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
PART = 64 << 20
"""Bytes of input per part, the unit of work: also what an interruption costs a process at most."""
LONGEST_LINE = 64 << 20
"""Bytes of the longest line of JSON."""
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""Errors that reading a damaged file raises; Arrow's are `OSError` or `ValueError`."""


class Documents(Protocol):
    """A share of the input."""

    def documents(self) -> Iterator[str]:
        """Its documents in order; none is empty. Raises `UserError` for what cannot be read, or is not text."""
        ...


Part = tuple[Documents, ...]
"""The unit of work, done by one process."""


@dataclass(frozen=True)
class Span:
    """A file, or the part of it between two bytes (text) or row groups (Parquet).

    Attributes:
      path: local or remote.
      first: where the span begins.
      last: where it ends; the end of the file if not given.
      separator: what stands between documents of a text file; None for stretches of text.
      field: name of the field that holds the text, in JSON lines and Parquet.
    """

    path: str
    first: int = 0
    last: int | None = None
    separator: str | None = None
    field: str = "text"

    def documents(self) -> Iterator[str]:
        """Documents of the span; see `Documents`."""
        kind, _ = _kind(self.path)
        read = {"text": self._texts, "lines": self._lines, "parquet": self._rows}[kind]
        try:
            yield from (text for text in read() if text)
        except DAMAGED as error:
            raise UserError(_damaged(self.path, error)) from error

    def _texts(self) -> Iterator[str]:
        with ExitStack() as stack:
            file = _open(self.path, stack)
            if self.separator is None:
                found = stretches(file, self.first, self.last)
            else:
                found = separated(file, self.separator.encode(), self.first, self.last)
            for at, document in found:
                yield decoded(document, f"{self.path} (byte {at:,})")

    def _lines(self) -> Iterator[str]:
        with ExitStack() as stack:
            file = _open(self.path, stack)
            for at, line in separated(file, b"\n", self.first, self.last, longest=LONGEST_LINE):
                if line.strip():
                    place = f"{self.path} (line at byte {at:,})"
                    yield text_of(_parsed(line, place), self.field, place)

    def _rows(self) -> Iterator[str]:
        arrow, parquet = _arrow(self.path)
        with epath.Path(self.path).open("rb") as file:
            try:
                table = parquet.ParquetFile(file)
                if self.field not in table.schema_arrow.names:
                    raise UserError(no_field(self.path, self.field, table.schema_arrow.names))
                groups = range(self.first, table.num_row_groups if self.last is None else self.last)
                row = sum(table.metadata.row_group(number).num_rows for number in range(self.first))
                for batch in table.iter_batches(64, row_groups=groups, columns=[self.field], use_threads=False):
                    for value in batch.column(0):
                        place = f"{self.path} (row {row:,})"
                        yield text_of({self.field: _decoded(value, self.field, place)}, self.field, place)
                        row += 1
            except arrow.ArrowException as error:
                raise UserError(_damaged(self.path, error)) from error


def find_files(inputs: Sequence[str]) -> list[tuple[str, epath.Path]]:
    """Files named, and those of known kinds below directories named, with a name that no path is part of.

    In the order given; within a directory by name. Raises `UserError` for what is missing, empty, of unknown kind or
    unreadable, and for a file that is there twice: its documents would count twice, in training and held out alike.
    """
    found: list[tuple[str, epath.Path]] = []
    seen: dict[str, str] = {}
    for given in inputs:
        root = epath.Path(given)
        if root.is_dir():
            refuse_saved(root)
            below = _below(root)
            if not below:
                raise UserError(
                    f"directory {given!r} holds no {', '.join(TEXT + LINES + PARQUET)} file; check the path"
                )
        elif root.exists():
            _kind(given)
            if not root.stat().length:
                raise UserError(f"{given!r} is empty; give a file with text")
            below = [(root.name, root)]
        else:
            raise UserError(
                f"input {given!r} does not exist; check the path, or name a Hugging Face data set by --dataset"
            )
        for _, path in below:
            place = f"{path} (input {given!r})"
            first = seen.setdefault(os.path.realpath(path), place)  # epath's `resolve` follows no links
            if first is not place:
                raise UserError(f"{place} is the same file as {first}; drop one, or its documents count twice")
        found += below
    return found


def _below(root: epath.Path) -> list[tuple[str, epath.Path]]:
    """Files of known kinds below a directory with their names, in order; hidden and empty ones are left out."""

    def refuse(error: OSError) -> None:
        folder = epath.Path(error.filename or root)
        if not _hidden(folder, root):  # else nothing in it is asked for
            raise UserError(_damaged(str(folder), error)) from error

    walked = files_below(root, refuse)
    return sorted((str(path.relative_to(root)), path) for path in walked if _wanted(path, root))


def is_text(path: epath.Path) -> bool:
    """Whether a file is plain text by its name, compressed or not: the only kind that separators cut."""
    return _kind(str(path))[0] == "text"


def share_out(files: Iterable[epath.Path], separator: str | None, field: str) -> list[Part]:
    """Files in parts of about `PART` bytes: large ones in several, small ones several together."""
    parts: list[Part] = []
    together: list[Span] = []
    size = 0
    for path in files:
        for span, length in _spans(path, separator, field):
            if together and size + length > PART:
                parts.append(tuple(together))
                together, size = [], 0
            together.append(span)
            size += length
    return [*parts, *([tuple(together)] if together else [])]


def _spans(path: epath.Path, separator: str | None, field: str) -> Iterator[tuple[Span, int]]:
    """Spans of a file with the bytes in each. A compressed file is one span: it can only be read from its beginning."""
    name, size = str(path), path.stat().length
    kind, compression = _kind(name)
    if kind == "parquet":
        ends = _row_groups(path)
    elif compression is None and size > PART:
        ends = ((first + PART, min(PART, size - first)) for first in range(0, size, PART))
    else:
        ends = ((None, size),)
    first = 0
    for last, length in ends:
        yield Span(name, first, last, separator, field), length
        first = last or 0


def _row_groups(path: epath.Path) -> Iterator[tuple[int, int]]:
    """Row groups in spans of at least `PART` bytes: the number after the last one of each, and its bytes."""
    arrow, parquet = _arrow(str(path))
    try:
        with path.open("rb") as file:
            metadata = parquet.read_metadata(file)
    except (OSError, arrow.ArrowException) as error:
        raise UserError(_damaged(str(path), error)) from error
    length = 0
    for number in range(metadata.num_row_groups):
        length += metadata.row_group(number).total_byte_size
        if length >= PART or number == metadata.num_row_groups - 1:
            yield number + 1, length
            length = 0


def _parsed(line: bytes, place: str) -> object:
    try:
        return parse_json(line)
    except ValueError as error:
        if len(line) > LONGEST_LINE - 4:  # what is longer has been cut, between two characters
            raise UserError(f"{place} is longer than {LONGEST_LINE:,} bytes; split the text in it") from error
        raise UserError(f"{place} is not JSON ({str(error)[:100]}); give one object a line") from error


def _damaged(path: str, error: BaseException) -> str:
    reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return f"{path} cannot be read ({reason[:200]}); check it, or fetch it again"


def _wanted(path: epath.Path, root: epath.Path) -> bool:
    name = path.name
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    if _hidden(path, root) or not name.endswith(TEXT + LINES + PARQUET):
        return False
    try:
        return path.stat().length > 0
    except OSError as error:  # such as a link whose target is gone
        raise UserError(_damaged(str(path), error)) from error


def _hidden(path: epath.Path, root: epath.Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _kind(path: str) -> tuple[str, str | None]:
    """Kind of a file by its name: text, lines or parquet; and the compression."""
    compression = next((ending for ending in COMPRESSED if path.endswith(ending)), None)
    name = path.removesuffix(compression or "")
    for kind, endings in (("text", TEXT), ("lines", LINES), ("parquet", PARQUET)):
        if name.endswith(endings) and not (kind == "parquet" and compression):
            return kind, compression
    raise UserError(
        f"{path!r} is of no known kind; give {', '.join(TEXT + LINES + PARQUET)}, the first ones compressed or not "
        f"({', '.join(COMPRESSED)})"
    )


def _decoded(value: Any, field: str, place: str) -> object:
    """A value of Arrow's as one of Python's; writers of Parquet do not all see to it that strings are UTF-8."""
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: field {field!r} is not UTF-8 text ({error.reason}); mend or drop the record"
        ) from error


def _arrow(path: str) -> tuple[Any, Any]:
    """pyarrow and its Parquet module."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} needs the package pyarrow; it comes with `pip install 'capscale[data]'`") from error
    return pyarrow, parquet


def _open(path: str, stack: ExitStack) -> Any:
    """A file opened for reading through its compression."""
    _, compression = _kind(path)
    file = stack.enter_context(epath.Path(path).open("rb"))
    if compression == ".zst":
        arrow, _ = _arrow(path)
        return stack.enter_context(arrow.CompressedInputStream(arrow.PythonFile(file, "r"), "zstd"))
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return file if compression is None else stack.enter_context(openers[compression](file))
