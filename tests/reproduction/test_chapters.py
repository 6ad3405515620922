"""Chapters of the reproduction, judged on invented rows, and their page."""

import csv
import json
import math
import re
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest
from capscale.experiments import reproduction, tab2
from matplotlib.figure import Figure

from capscale.analysis.claims import Claim, Estimate
from capscale.cli import main
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.models.ladder import NANO
from capscale.reproduction.chapters import Chapter, chapters, chosen, judged, to_decide
from capscale.reproduction.page import write_page
from capscale.reproduction.planning import hardest, planned

TEXT = DataId("text", "0" * 64, 96)
FALLS = Claim("falls", "Loss falls with <size>.", "Table 9", "nats", (-math.inf, 0.0), "its sign", -0.5, null=0.0)
BEYOND = Claim("E", "E is 1.3.", "Table 3", "nats", (1.0, 1.6), "1 sd", 1.3, beyond="it belongs to C4")


def chapter(estimates=None, claims=(FALLS, BEYOND)) -> Chapter:
    """A chapter that asks for the dense runs, and says how far the loss falls from the smallest size to the largest."""
    module = ModuleType("capscale.experiments.made")
    module.__doc__ = "Made: loss falls.\n\nClaim: it does.\n"
    module.CLAIMS = claims
    module.EXPLAINED = {"falls": "Nothing was tried."}
    module.runs = tab2.runs

    def estimate(evidence):
        try:
            losses = {r.N: r.loss for r in evidence.table.rows}
        except UserError as reason:
            return {"falls": Estimate(missing=str(reason)), "E": Estimate(missing=str(reason))}
        return {"falls": Estimate.exact(losses[max(losses)] - losses[min(losses)]), "E": Estimate(1.3, 1.0, 1.6)}

    def figure(evidence):
        drawn = Figure()
        drawn.add_subplot().plot([r.N for r in evidence.table.rows], [r.loss for r in evidence.table.rows])
        return drawn

    module.estimates, module.figure = estimates or estimate, figure
    return Chapter("made", module)


def rows(path, slope, leave_out=0):
    """A table of the chapter's runs, whose loss changes with size."""
    runs = tab2.runs(NANO, TEXT)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "N", "D", "loss", "weights", "activations", "seed", "wall_s"])
        for run in runs[leave_out:]:
            N = run.non_embedding_parameters
            loss = 3 + slope * math.log(N) + 0.01 * run.seed
            writer.writerow([run.run_id, N, run.trained_tokens, loss, "dense", "dense", run.seed, 30])
    return path, runs


@pytest.mark.parametrize(("slope", "verdict"), [(-0.1, "reproduced"), (0.1, "not reproduced")])
def test_a_verdict_follows_from_the_rows(tmp_path, slope, verdict):
    table, runs = rows(tmp_path / "rows.csv", slope)
    found = judged(chapter(), runs, table, "nano")
    assert [j.verdict for j in found.judgements] == [verdict, "undecided at this scale"]
    assert (found.finished, found.planned, found.seconds) == (28, 28, 28 * 30)
    assert to_decide(found.judgements[0]) == ""
    assert to_decide(found.judgements[1]) == "the paper's ladder"


def test_only_the_chapters_own_runs_are_looked_at(tmp_path):
    table, runs = rows(tmp_path / "rows.csv", -0.1)
    assert judged(chapter(), runs[:12], table, "nano").finished == 12


def test_without_rows_nothing_is_decided(tmp_path):
    _, runs = rows(tmp_path / "rows.csv", -0.1)
    found = judged(chapter(), runs, None, "nano")
    assert {j.verdict for j in found.judgements} == {"undecided at this scale"}
    assert "none of its runs has a result" in found.judgements[0].reason
    assert found.figure() is None
    assert to_decide(found.judgements[0]) == "the runs that are missing"


def test_estimates_are_one_for_each_claim(tmp_path):
    _, runs = rows(tmp_path / "rows.csv", -0.1)
    with pytest.raises(UserError, match=r"made: it claims falls, E, and estimates other"):
        judged(chapter(lambda evidence: {"other": Estimate.exact(1.0)}), runs, None, "nano")


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate(-0.1, -0.9, 0.7), "6 times as many runs"),  # deviation .41 where .18 has a power of 80 %
        (Estimate(-0.01, -0.2, 0.18), "more seeds, or a larger ladder"),
    ],
)
def test_what_would_decide_a_claim(estimate, words):
    from capscale.analysis.claims import judge

    assert to_decide(judge(FALLS, estimate)).startswith(words)


def test_the_page_has_every_claim_and_needs_no_other_file(tmp_path):
    table, runs = rows(tmp_path / "rows.csv", -0.1)
    found = judged(chapter(), runs, table, "nano")
    about = {"ladder": "nano", "command": "capscale reproduce made", "rows": "rows.csv", "pictures": "."}
    page = write_page([found], about, tmp_path / "report").read_text()
    assert "Loss falls with &lt;size&gt;." in page
    assert "<b>1</b> reproduced, <b>0</b> not reproduced, <b>1</b> undecided" in page
    assert "Nothing was tried." in page
    assert 'role="img" aria-label="' in page
    assert "; reproduced." in page.partition('aria-label="')[2].partition('"')[0]
    assert not re.search(r"https?://", page)
    text = (tmp_path / "report" / "reproduction.md").read_text()
    assert "Loss falls with <size>." in text
    assert "**1 reproduced, 0 not reproduced, 1 undecided" in text
    told = json.loads((tmp_path / "report" / "reproduction.json").read_text())
    assert told["chapters"][0]["claims"][0]["verdict"] == "reproduced"
    ET.parse(tmp_path / "report" / "made.svg")
    assert (tmp_path / "report" / "made.pdf").read_bytes().startswith(b"%PDF")
    write_page([found], about, tmp_path / "again")
    for name in ("reproduction.md", "made.png", "made.svg", "made.pdf"):
        assert (tmp_path / "report" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_run_is_planned_where_it_is_asked_for_first():
    twice = planned([chapter(), chapter()], NANO, TEXT, None)
    assert [len(each.new) for each in twice] == [28, 0]
    assert [power for _, power in twice[0].powers] == [1.0, 1.0]
    assert [run.size for run in hardest(twice[0].runs)] == [f"nano-{width}" for width in (4, 8, 12, 16, 24, 32)]


def test_the_suite_is_every_run_of_every_chapter_once():
    runs = reproduction.runs(NANO, TEXT)
    ids = [run.run_id for run in runs]
    assert len(set(ids)) == len(ids)
    assert {run.run_id for each in chapters() for run in each.runs(NANO, TEXT)} == set(ids)


def test_chapters_by_name():
    names = [each.name for each in chapters()]
    assert names == sorted(names)
    assert [each.name for each in chosen(["all"])] == names
    assert [each.name for each in chosen([names[1], names[0], names[1]])] == names[:2]
    with pytest.raises(UserError, match="no figure or table of the reproduction; did you mean"):
        chosen(["fig33"])


@pytest.mark.parametrize("name", [each.name for each in chapters()])
def test_every_chapter_says_what_it_claims(name):
    (each,) = chosen([name])
    assert "arXiv 2506.01863" in each.title
    assert len({claim.name for claim in each.claims}) == len(each.claims) > 0
    assert set(each.explained) <= {claim.name for claim in each.claims}
    assert f"capscale reproduce {name}" in each.says


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a figure or table"),
        (["fig33"], "did you mean"),
        (["all", "--plan", "--from-rows"], "give one of them"),
        (["all", "--topology", "v5e:4x4"], "belong to --plan"),
        (["all", "--plan", "--mfu", "2"], "must lie in"),
        (["all", "--jobs", "0"], "must be at least 1"),
        (["all", "--from-rows", "--ladder", "paper"], "no rows of the paper ladder come with capscale"),
    ],
)
def test_bad_input_is_named(arguments, message, capsys):
    assert main(["reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err
