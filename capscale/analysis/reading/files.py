"""Kinds of files: their cells as records, whatever the columns are called."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
from etils import epath

from capscale.analysis.reading.choices import Choices
from capscale.analysis.reading.json_tables import flat, records_of
from capscale.analysis.reading.text import read_text
from capscale.errors import UserError
from capscale.files import parse_json, unreadable

LARGEST = 2**30
"""Bytes of the largest table that is read, unpacked."""
TEXTS = (".csv", ".tsv", ".txt", ".tab")
SUFFIXES = (*TEXTS, ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx")
PACKAGES = {".parquet": ("Parquet", "pyarrow", "parquet"), ".xlsx": (".xlsx", "openpyxl", "excel")}
"""Packages that suffixes need: a name, the package, and the extra that it comes with."""


class Cells(NamedTuple):
    """The records of a file."""

    records: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    """How they were told apart."""


def read_file(path: epath.Path, choices: Choices) -> Cells:
    """The records of a file by its suffix; .gz is unpacked.

    Raises:
      UserError: naming the file: it cannot be read, is damaged, larger than `LARGEST`, of no kind that is read, or
        needs a package that is not installed.
    """
    suffix = path.suffix.lower()
    try:
        content = _content(path)
        if suffix == ".gz":
            suffix = epath.Path(path.stem).suffix.lower()
        if suffix in TEXTS:
            text = read_text(content)
            return Cells(list(text.records), text.notes)
        match suffix:
            case ".json":
                return Cells(records_of(parse_json(content), choices))
            case ".jsonl" | ".ndjson":
                return Cells(records_of(_lines(content), choices))
            case ".parquet":
                return _decoded(_parquet, content)
            case ".xlsx":
                return _decoded(_workbook, content)
    except ImportError as e:
        name, package, extra = PACKAGES.get(suffix, (suffix, str(e.name), "dev"))
        raise UserError(f"{path}: reading {name} needs {package}: pip install 'capscale[{extra}]'") from e
    except (gzip.BadGzipFile, zlib.error, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path}: damaged ({e}); copy it again") from e
    except OSError as e:
        raise UserError(unreadable(path, e)) from e
    except UserError as e:
        raise e if str(e).startswith(str(path)) else UserError(f"{path}: {e}") from e
    except ValueError as e:
        raise UserError(f"{path}: not a readable {suffix[1:]} file: {e}") from e
    raise UserError(f"{path}: unknown suffix {path.suffix!r}; use {', '.join(SUFFIXES)}, or one of them with .gz")


def _content(path: epath.Path) -> bytes:
    """The bytes of a file, unpacked."""
    if path.stat().length > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST:,} bytes, and a row is one run; give the table of runs")
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        with gzip.open(io.BytesIO(content)) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"{path}: unpacks to more than {LARGEST:,} bytes; give the table of runs")
    return content


def _lines(content: bytes) -> list[Any]:
    """The values of JSON lines; `ValueError` names the line that is none."""
    found = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            found += [parse_json(line)] if line.strip() else []
        except ValueError as e:
            raise ValueError(f"line {number}: {e}") from e
    return found


def _decoded(decode: Callable[[bytes], Cells], content: bytes) -> Cells:
    """The cells of a binary file, whose packages raise errors of any type for one that is damaged."""
    try:
        return decode(content)
    except (ImportError, ValueError):
        raise
    except Exception as e:
        raise ValueError(f"{type(e).__name__}: {e}") from e


def _parquet(content: bytes) -> Cells:
    frame = pd.read_parquet(io.BytesIO(content))
    return Cells([{str(k): v for k, v in record.items()} for record in frame.to_dict("records")])


def _workbook(content: bytes) -> Cells:
    """The one sheet of a workbook that holds a table. Cells that hold a formula have the value it had when saved."""
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        if sum(part.file_size for part in parts.infolist()) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
    book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    tables = {}
    for sheet in book.worksheets:
        rows = [row for row in sheet.iter_rows(values_only=True) if any(cell is not None for cell in row)]
        if len(rows) > 1 and sum(cell is not None for cell in rows[0]) >= 3:
            tables[sheet.title] = rows
    book.close()
    if len(tables) != 1:
        found = f"sheets {', '.join(map(repr, tables))} hold tables" if tables else "no sheet holds a table"
        raise ValueError(f"{found}; save the one that is meant as .csv")
    ((title, (header, *rows)),) = tables.items()
    names = ["" if cell is None else str(cell).strip() for cell in header]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"the header names {', '.join(twice)} twice")
    records = [{name: cell for name, cell in zip(names, row, strict=False) if name} for row in rows]
    return Cells(records, (f"sheet {title!r}",) if len(book.sheetnames) > 1 else ())


def flattened(cells: Cells) -> Cells:
    """With objects within records as columns of their own."""
    return cells._replace(records=[flat(record) for record in cells.records])
