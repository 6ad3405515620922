"""Verdicts of experiments on the rows that are committed: as experiments/results/README.md says them beside."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NANO = (
    *("bitnet", "cage", "dense_then_qat", "ends_dense", "gradient_rounding", "gradients", "low_ranks", "nested"),
    "parametrizations",
)
PLACES = {"cage": 4}
"""Decimals of a table, where they are not three."""


MICRO = ("dense_then_qat", "ends_dense", "gradients")


@pytest.mark.parametrize(("experiment", "ladder"), [*((e, "nano") for e in NANO), *((e, "micro") for e in MICRO)])
def test_committed_rows_say_what_the_text_beside_them_says(experiment, ladder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from judge_experiment import judged

    results = ROOT / "experiments" / "results"
    name = experiment if ladder == "nano" else f"{experiment}-{ladder}"
    text = (results / "README.md").read_text().split(f"## {name}.csv\n")[1].split("\n## ")[0]
    digits = f".{PLACES.get(experiment, 3)}f"
    for found in judged(experiment, results / f"{name}.csv", ladder):
        said = found.estimate
        interval = f"{said.value:{digits}} | {said.low:{digits}} to {said.high:{digits}}"
        numbers = f"| {said.missing}" if said.missing else interval
        assert f"| {found.claim.says} | {numbers} | {found.verdict} |" in text
