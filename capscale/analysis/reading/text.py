"""Delimited text, whatever the separator: lines that start with # are comments, lines are as long as the header."""

import csv
from collections.abc import Iterator
from typing import NamedTuple

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


class Text(NamedTuple):
    """Cells of a text, and how they were told apart."""

    records: list[dict[str, str]]
    notes: tuple[str, ...]


def decode(content: bytes) -> str:
    """The characters of a text file. Raises `ValueError` where it is neither UTF-8 nor UTF-16 with its mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    text = content.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds zero bytes, and is no text")
    return text


def read_text(content: bytes) -> Text:
    """The records of delimited text.

    Raises:
      ValueError: it is no text, has no header or one with a name twice, or a line has more or fewer cells than the
        header; the line is named.
    """
    lines, comments = [], 0
    for number, line in _logical_lines(decode(content)):
        if line.lstrip().startswith("#"):
            comments += 1
        elif line.strip():
            lines.append((number, line))
    if not lines:
        raise ValueError("it has no line that is not a comment")
    separator = _separator([line for _, line in lines[:50]])
    rows = [(number, _cells(line, separator)) for number, line in lines]
    if separator == "|":  # a table of Markdown has bars around it, and a rule below its header
        rows = [(n, row[1:-1] if row[:1] == [""] and row[-1:] == [""] else row) for n, row in rows]
        rows = [(n, row) for n, row in rows if not all(set(cell.strip()) in ({"-"}, {"-", ":"}) for cell in row)]
    header = [cell.strip() for cell in rows[0][1]]
    while header and not header[-1]:  # spreadsheets end lines with separators
        header.pop()
    _check_header(header)
    records = []
    for number, row in rows[1:]:
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            hint = "; decimal commas need another separator, or quotation marks" if separator == "," else ""
            raise ValueError(f"line {number} has {len(row)} cells, and the header {len(header)}{hint}")
        records.append({name: cell.strip() for name, cell in zip(header, row, strict=False) if name})
    notes = [f"cells are told apart by {SEPARATORS.get(separator, 'spaces')}"] if separator != "," else []
    notes += [f"{comments} lines that start with # are comments"] if comments else []
    return Text(records, tuple(notes))


def _check_header(header: list[str]) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(f"the header names {', '.join(twice)} twice")
    if not any(header):
        raise ValueError("the first line names no column")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that ends within quotation marks goes on in the next."""
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if pending else number
        pending = f"{pending}\n{line}" if pending else line
        comment = pending.lstrip().startswith("#")
        if comment or pending.count('"') % 2 == 0:
            yield start, pending
            pending = ""
    if pending:
        raise ValueError(f"line {start} opens a quotation mark that is never closed")


def _separator(lines: list[str]) -> str:
    """The separator that gives all of the first lines the most cells, as many in each; spaces where none does."""
    best, most = " ", 1
    for separator in SEPARATORS:
        counts = [len(_cells(line, separator)) for line in lines]
        if counts[0] > most and (min(counts) == counts[0] or best == " "):
            best, most = separator, counts[0]
    if best == " " and len({len(line.split()) for line in lines}) > 1:
        return ","
    return best


def _cells(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=False))
    except csv.Error as error:
        raise ValueError(str(error)) from error
