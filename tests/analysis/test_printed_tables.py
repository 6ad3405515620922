"""The printed tables as they are held: consistent with each other, and with the transcription where that is there."""

import csv
from pathlib import Path

import pytest

from capscale.analysis.printed_tables import tables

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "paper" / "printed"
LAWS = {
    "frantar": "sparsity_frantar2024",
    "kumar": "kumar2024",
    "decoupled": "decoupled_frantar2025",
    "tanh": "ours_tanh_gmse",
}
FAMILIES = {"llama": "llama_c4", "olmo2": "olmo2_climbmix"}


def test_table_4_repeats_the_sparsity_of_table_1():
    found = tables()
    for law in ("decoupled", "tanh"):
        assert found.forms[law] == found.fit_errors["sparsity"][law]


def test_every_family_has_every_number_of_the_law():
    for family in FAMILIES:
        row = tables().law[family]
        assert set(row) == {"alpha", "beta", "E", "Lsat", "F", "C"}
        assert all(0 < number.deviation < number.value for number in row.values())


def transcribed(name):
    with (FOLDER / name).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there: the transcription of the paper's tables")
def test_the_tables_are_as_transcribed():
    found = tables()
    errors = {row["law"]: row for row in transcribed("table1_fit_errors.csv")}
    for column, by_law in found.fit_errors.items():
        told = {law: errors[name][f"{column}_fit_error"] for law, name in LAWS.items()}
        assert by_law == {law: float(value) for law, value in told.items() if value}
    for row in transcribed("table2_hparams.csv"):
        columns = {"layers": "layers", "heads": "heads", "width": "embedding", "learning_rate": "learning_rate"}
        assert found.sizes[row["model_size"]] == {ours: float(row[theirs]) for ours, theirs in columns.items()}
    for row in transcribed("table3_v2_law_parameters.csv"):
        for family, name in FAMILIES.items():
            assert found.law[family][row["parameter"]] == (float(row[name]), float(row[f"{name}_sd"]))
    forms = {row["name"].replace("_", "-"): float(row["fitting_error_rmse"]) for row in
             transcribed("table3_v1_functional_forms.csv")}  # fmt: skip
    assert found.forms == forms
