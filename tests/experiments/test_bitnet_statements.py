"""Statements about BitNet's scales: on invented rows either way, and on committed ones as the text beside them says."""

from pathlib import Path

import numpy as np
from capscale.experiments import bitnet
from support import invented

from capscale.analysis.claims import judge

ROOT = Path(__file__).resolve().parents[2]


def verdicts(rho_of, **changes):
    found = bitnet.estimates(invented.evidence(bitnet, rho_of, **changes))
    return {claim.name: judge(claim, found[claim.name]).verdict for claim in bitnet.STATEMENTS}


def test_capacities_by_gaussian_error_deny_the_median():
    found = verdicts(lambda r: float(np.exp(-4.0 * invented.weights_gmse(r))))
    assert found == {
        "median-above-mean": "not reproduced",
        "least-error-above-mean": "reproduced",
        "activations-for-nothing": "reproduced",
    }


def test_capacities_against_it_and_dear_activations():
    def rho(representation):
        alone = float(np.exp(4.0 * invented.weights_gmse(representation) - 2.0))
        return alone if representation.activations.is_dense else 0.7 * alone

    found = verdicts(rho)
    assert found == {
        "median-above-mean": "reproduced",
        "least-error-above-mean": "not reproduced",
        "activations-for-nothing": "not reproduced",
    }


def test_committed_rows_say_what_the_text_beside_them_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from judge_experiment import judged

    found = {j.claim.name: j for j in judged("bitnet", ROOT / "experiments" / "results" / "bitnet.csv")}
    assert {name: (j.verdict, round(j.estimate.value, 2)) for name, j in found.items()} == {
        "median-above-mean": ("reproduced", 0.07),
        "least-error-above-mean": ("not reproduced", -0.11),
        "activations-for-nothing": ("reproduced", -0.01),
    }
    text = (ROOT / "experiments" / "results" / "README.md").read_text()
    for j in found.values():
        low, high = j.estimate.low, j.estimate.high
        assert f"| {j.claim.says} | {j.estimate.value:.3f} | {low:.3f} to {high:.3f} | {j.verdict} |" in text


def test_every_pair_counts():
    """With compressed activations alone the median is worth e^.4 times the mean: .2 averaged over both."""

    def rho(representation):
        both = not representation.activations.is_dense
        return 0.3 * float(np.exp(0.4 if both and representation == bitnet.representation("median") else 0.0))

    found = bitnet.estimates(invented.evidence(bitnet, rho, scatter=1e-4))
    assert abs(found["median-above-mean"].value - 0.2) < 0.02
    assert abs(found["least-error-above-mean"].value) < 0.02
    assert abs(found["activations-for-nothing"].value - 0.4 / 3) < 0.02


def test_rows_that_are_missing_decide_nothing():
    found = bitnet.estimates(invented.evidence(bitnet, lambda r: 0.5).only(activations="dense"))
    assert {name for name, estimate in found.items() if estimate.missing} == {claim.name for claim in bitnet.STATEMENTS}
