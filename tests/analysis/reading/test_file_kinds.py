"""Kinds of files: one table in each of them is one table; damaged ones are named."""

import datetime
import gzip
import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from support.foreign import runs

from capscale.analysis.canonical import canonical_csv
from capscale.analysis.reading import files
from capscale.analysis.reading.choices import Choices
from capscale.analysis.rows import read
from capscale.analysis.table import make_table
from capscale.errors import UserError

PLAIN = runs()
TABLE = make_table(PLAIN.to_dict("records"), "x")
RECORDS = PLAIN.to_dict("records")


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
def test_orientations_of_pandas(orient, tmp_path):
    PLAIN.to_json(path := tmp_path / "runs.json", orient=orient)
    assert read(path).rows == TABLE.rows


@pytest.mark.parametrize(
    "content",
    [
        {"runs": RECORDS, "version": 3},
        {"experiment": "x", "results": RECORDS},
        {"runs": {r["run"]: {k: v for k, v in r.items() if k != "run"} for r in RECORDS}},
        {r["run"]: {k: v for k, v in r.items() if k != "run"} for r in RECORDS},
        {name: list(column) for name, column in PLAIN.to_dict("list").items()},
        [
            {"name": r["run"], "config": {k: r[k] for k in ("N", "weights", "activations")}, "summary": r}
            for r in RECORDS
        ],
    ],
    ids=["runs", "results", "by name below runs", "by name", "lists", "nested"],
)
def test_objects_that_hold_runs(content, tmp_path):
    if isinstance(content, list):
        content = [{**r, "summary": {"D": r["summary"]["D"], "val_loss": r["summary"]["loss"]}} for r in content]
        names = {"N": "config.N", "D": "summary.D", "weights": "config.weights", "activations": "config.activations"}
    else:
        names = {}
    (path := tmp_path / "runs.json").write_text(json.dumps(content))
    assert read(path, choices=Choices(names)).rows == TABLE.rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "list of JSON objects"),
        ("[1, 2]", "list of JSON objects"),
        ('{"runs": [{"N": 1}], "more": [{"N": 2}]}', "several lists of objects, more, runs"),
        ('{"columns": ["N"], "data": [[1, 2]]}', "its rows are not of 1 cells each"),
    ],
)
def test_json_of_no_known_kind_is_refused(content, message, tmp_path):
    (path := tmp_path / "runs.json").write_text(content)
    with pytest.raises(UserError, match=f"runs.json: .*{message}"):
        read(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson.gz", ".csv.gz", ".json.gz"])
def test_lines_and_gzip(suffix, tmp_path):
    text = {"csv": PLAIN.to_csv(index=False), "json": json.dumps(RECORDS)}.get(
        suffix.split(".")[1], "\n".join(json.dumps(r) for r in RECORDS)
    )
    data = text.encode()
    (path := tmp_path / f"runs{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert read(path).rows == TABLE.rows


CUT = gzip.compress(b"run,N\n" * 100)[:-9]


@pytest.mark.parametrize("content", [b"no gzip", CUT], ids=["not gzip", "cut short"])  # its bytes hold the time of day
def test_damaged_gzip_is_named(content, tmp_path):
    (path := tmp_path / "runs.csv.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"runs.csv.gz: damaged .*copy it again"):
        read(path)


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 1000)
    (path := tmp_path / "runs.csv.gz").write_bytes(gzip.compress(b"run,N\n" * 1000))
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        read(path)
    (path := tmp_path / "runs.csv").write_bytes(b"run,N\n" * 1000)
    with pytest.raises(UserError, match="larger than 1,000 bytes"):
        read(path)


def test_workbooks(tmp_path):
    pytest.importorskip("openpyxl", reason="package openpyxl is not installed: workbooks")
    PLAIN.to_excel(path := tmp_path / "runs.xlsx", index=False)
    assert read(path).rows == TABLE.rows
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"notes": ["made by hand"]}).to_excel(book, sheet_name="readme", index=False)
        PLAIN.to_excel(book, sheet_name="runs", index=False)
        for (cell,) in book.sheets["runs"].iter_rows(min_col=5, max_col=5):
            # A spreadsheet takes 2:4 for four minutes past two.
            cell.value = datetime.time(2, 4) if cell.value == "int4" else cell.value
    table = read(path)
    assert set(table.curves) == {"dense", "2:4", "int3", "int2"}
    assert table.remarks[0].what == "sheet 'runs'"
    with pd.ExcelWriter(path) as book:
        for name in ("first", "second"):
            PLAIN.to_excel(book, sheet_name=name, index=False)
    with pytest.raises(UserError, match="sheets 'first', 'second' hold tables; save the one"):
        read(path)
    PLAIN.to_excel(path, index=False)
    with zipfile.ZipFile(path) as book, zipfile.ZipFile(damaged := tmp_path / "damaged.xlsx", "w") as other:
        for name in book.namelist():
            other.writestr(name, book.read(name)[: -40 if "sheet1" in name else None])
    with pytest.raises(UserError, match=r"damaged.xlsx: not a readable xlsx file: ParseError"):
        read(damaged)
    path.write_bytes(b"PK\3\4 no workbook")
    with pytest.raises(UserError, match=r"runs.xlsx: (damaged|not a readable)"):
        read(path)


@pytest.mark.parametrize(("suffix", "package"), [("xlsx", "openpyxl"), ("parquet", "pyarrow")])
def test_a_missing_package_is_said(suffix, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (path := tmp_path / f"runs.{suffix}").write_bytes(b"PK")
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'capscale\["):
        read(path)


def test_a_table_reads_back_as_itself(tmp_path):
    random = np.random.default_rng(0)
    frame = PLAIN.assign(
        run=["#" + r if i % 7 == 0 else "=1+1," + r for i, r in enumerate(PLAIN.run)],
        loss=PLAIN.loss + random.normal(0, 1e-3, 64),
        seed=3,
        hadamard=[128 if w != "dense" else None for w in PLAIN.weights],
        epochs=random.uniform(1, 4, 64),
        weight=random.uniform(0.5, 1, 64),
    )
    frame.loc[5, "epochs"] = None
    table = make_table(frame.to_dict("records"), "x")
    (path := tmp_path / "out.csv").write_bytes(canonical_csv(table))
    again = read(path)
    assert again.sha256 == table.sha256
    assert again.rows == table.rows
    assert not again.remarks
    assert "default_estimators" not in path.read_text().splitlines()[0]
