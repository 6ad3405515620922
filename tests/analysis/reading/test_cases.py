"""Small tables that were once read or judged wrongly, each with what is right of it."""

import pytest
from support.foreign import CASES

from capscale.analysis.reading.choices import Choices
from capscale.analysis.rows import read
from capscale.errors import UserError

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not there: small tables to be read")

REFUSED = {
    "blank_weights": "weights is missing in 16 rows: int3-30M-25, ",
    "two_families": r"column 'family' tells apart .*llama \(64 rows\), olmo2 \(64 rows\).*--where 'family=llama'",
    "all_N_in_millions": r"more tokens per parameter .*dense-30M-25 \(N=30\).*--map N=COLUMN\*1e6",
    "one_row_in_millions": r"more tokens per parameter [^:]*: int3-300M-25 \(N=300\); .*correct these rows",
}
READ = {
    "plain": 64, "hash_in_note": 64, "status_finished": 64, "both_operands_only": 64, "one_size": 16,
    "as_many_rows_as_numbers": 7, "one_outlier": 64, "error_shared_by_size": 64, "one_ratio": 16, "checkpoints": 160,
    "other_names": 64, "equal_losses": 64, "order_reversed": 64,
}  # fmt: skip


def test_every_case_is_known():
    assert {path.stem for path in CASES.glob("*.csv")} == {*REFUSED, *READ}


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        read(CASES / f"{name}.csv")


@pytest.mark.parametrize(("name", "rows"), READ.items())
def test_is_read(name, rows):
    table = read(CASES / f"{name}.csv")
    assert len(table) == rows
    assert not [r for r in table.remarks if "set aside" in r.what]


def test_notes_and_statuses_change_nothing():
    plain = read(CASES / "plain.csv")
    assert read(CASES / "hash_in_note.csv").rows == plain.rows
    assert read(CASES / "status_finished.csv").rows == plain.rows


def test_one_family_is_read():
    table = read(CASES / "two_families.csv", choices=Choices.parse(where=["family=llama"]))
    assert len(table) == 64
    assert {r.family for r in table.rows} == {"llama"}


def test_other_names_are_understood():
    table = read(CASES / "other_names.csv")
    assert table.curves == ("dense", "int4", "int3", "int2")
    assert (min(table.column("N")), max(table.column("D"))) == (3e7, 2e11)
    assert {r.row for r in table.remarks} == {
        "other_names.csv", "column 'name'", "column 'params'", "column 'tokens'", "column 'val_loss'",
        "column 'w_format'", "column 'a_format'",
    }  # fmt: skip


def test_checkpoints_are_rows_of_their_runs():
    table = read(CASES / "checkpoints.csv")
    assert len({r.run for r in table.rows}) == 16
