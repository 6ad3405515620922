"""Tables of docs/benchmarks/preflight.md: they say what the committed rows do, a row of each cell."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "docs" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import preflight_paper  # pyright: ignore[reportMissingImports]

    return preflight_paper


def test_the_page_is_that_of_the_rows(script):
    rows = script.stored(PLACE / "preflight.jsonl")
    assert (PLACE / "preflight.md").read_text() == script.page(rows)
    assert len({(row["quick"], row["size"], row["format"], row["topology"]) for row in rows}) == len(rows) >= 72


def test_a_cell_has_a_column_for_every_name(script):
    """Of either effort, with times, without, and where nothing fits."""
    (row,) = [row for row in script.stored(PLACE / "preflight.jsonl") if "ms_by_unit" in row and row["quick"]][:1]
    units = {"matrix unit": 11.5, "memory": 22.5, "vector unit": 33.5}
    full = {**row, "quick": False, "ms_by_unit": units, "bound_by": "vector unit"}
    untold = {name: value for name, value in row.items() if not name.endswith(("_ms", "_by_unit", "_hours"))}
    for each, told in ((row, True), (full, True), (untold, False), ({**untold, "fits": False}, False)):
        names, rule, cells = (line.split(" | ") for line in script.table([each]).splitlines() if line.startswith("| "))
        assert len(names) == len(rule) == len(cells) == 14 + 2 * (not each["quick"])
        assert (cells[5] == f"{row['step_ms']:,}") == told
    assert " | 11.5 | 22.5 | 33.5 | " in script.table([full])
