"""The rows of the reproduction that come with capscale, judged again: the page says what they say."""

import csv
import json
from pathlib import Path

import pytest
from support.cases import parametrize

from capscale.models.ladder import NANO
from capscale.reproduction.chapters import chapters, judged
from capscale.reproduction.committed import FOLDER, rows_of

DOCS = Path(__file__).parents[2] / "docs"
LONG = ("tab1", "tab3", "tab4")
"""Chapters that fit laws to losses: seconds each."""


def told() -> dict[str, dict]:
    """The page's numbers by chapter."""
    content = json.loads((DOCS / "reproduction" / "numbers.json").read_text())
    return {chapter["name"]: chapter for chapter in content["chapters"]}


@parametrize(
    "name",
    [pytest.param(c.name, marks=pytest.mark.slow) if c.name in LONG else c.name for c in chapters()],
    default=[c.name for c in chapters() if c.name not in ("fig1a", "fig10", "fig2a")],
)
def test_the_page_gives_the_verdicts_of_the_rows(name):
    (chapter,) = (each for each in chapters() if each.name == name)
    table, data = rows_of(NANO)
    found = judged(chapter, chapter.runs(NANO, data), table, NANO.name)
    page = told()[name]
    assert page["finished"] == found.finished
    assert {c["name"]: c["verdict"] for c in page["claims"]} == {j.claim.name: j.verdict for j in found.judgements}
    for said, judgement in zip(page["claims"], found.judgements, strict=True):
        if said["estimate"] is not None:
            assert judgement.estimate.value == pytest.approx(said["estimate"], rel=0.05, abs=0.01)


def test_the_page_shows_every_claim_and_its_picture():
    text = (DOCS / "reproduction.md").read_text()
    for chapter in chapters():
        assert f"## {chapter.name}\n" in text
        for claim in chapter.claims:
            assert claim.says in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (DOCS / line.partition("](")[2].rstrip(")")).is_file()


def test_every_claim_that_is_not_reproduced_is_explained():
    verdicts = {
        (name, claim["name"]): claim["verdict"] for name, chapter in told().items() for claim in chapter["claims"]
    }
    missing = {key for key, verdict in verdicts.items() if verdict == "not reproduced"}
    explained = {(chapter.name, name) for chapter in chapters() for name in chapter.explained}
    assert missing <= explained


def test_every_committed_row_is_a_run_of_the_suite():
    table, data = rows_of(NANO)
    with open(table, newline="") as file:
        ids = [row["run"] for row in csv.DictReader(file)]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= {run.run_id for chapter in chapters() for run in chapter.runs(NANO, data)}
    assert json.loads((FOLDER / "reproduction-nano.json").read_text())["rows"] == len(ids)
