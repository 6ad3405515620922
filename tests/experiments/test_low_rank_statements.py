"""Statements about low rank as a format and as a compensation: on invented rows either way."""

from pathlib import Path

from capscale.experiments import low_ranks
from support import invented

from capscale.analysis.claims import judge


def verdicts(rho_of):
    found = low_ranks.estimates(invented.evidence(low_ranks, rho_of))
    return [judge(claim, found[claim.name]).verdict for claim in low_ranks.STATEMENTS]


def test_statements_hold_and_fail_as_the_runs_have_them():
    worth = {"nearest-lowrank0.5": 0.6, "nearest-lowrank0.25": 0.5, "int2~lowrank0.125": 0.5, "int2": 0.3, "int3": 0.4}
    assert set(verdicts(lambda held: worth.get(held.weights_label, 0.3))) == {"reproduced"}
    assert set(verdicts(lambda held: 0.9 - worth.get(held.weights_label, 0.3))) == {"not reproduced"}


def test_committed_rows_say_what_the_text_beside_them_says(monkeypatch):
    results = Path(__file__).resolve().parents[2] / "experiments" / "results"
    monkeypatch.syspath_prepend(str(results.parents[1] / "scripts"))
    from judge_experiment import judged

    text = (results / "README.md").read_text()
    for found in judged("low_ranks", results / "low_ranks.csv"):
        said = found.estimate
        numbers = f"{said.value:.3f} | {said.low:.3f} to {said.high:.3f}"
        assert f"| {found.claim.says} | {numbers} | {found.verdict} |" in text
