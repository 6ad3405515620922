"""Statements about BitNet's scales: on invented rows either way."""

import numpy as np
from capscale.experiments import bitnet
from support import invented

from capscale.analysis.claims import judge


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
