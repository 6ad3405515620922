"""Statements about stored numbers: on invented rows either way, on committed ones, and as a report says them."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from capscale.experiments import parametrizations
from support import invented

from capscale.analysis.claims import judge
from capscale.analysis.predict import Predictor, target
from capscale.analysis.sentences import stored
from capscale.analysis.sentences.rule import say
from capscale.analysis.sentences.summary import RULES
from capscale.analysis.study import study
from capscale.errors import UserError


def verdicts(rho_of, **changes):
    found = parametrizations.estimates(invented.evidence(parametrizations, rho_of, **changes))
    return {claim.name: judge(claim, found[claim.name]).verdict for claim in parametrizations.STATEMENTS}


def worth(shared, pruned, low_rank, other):
    def rho(held):
        name = held.weights_label
        share = {"2": 0.5, "4": 0.25, "8": 0.125}.get(name.removeprefix("shared"))
        if share is not None:
            return shared * share
        return pruned if name.startswith("top") else low_rank if name.startswith("low") else other

    return rho


def test_statements_hold_and_fail_as_the_runs_have_them():
    good = verdicts(worth(shared=1.7, pruned=0.3, low_rank=0.2, other=0.4))
    assert set(good.values()) == {"reproduced"}
    bad = verdicts(worth(shared=0.6, pruned=0.6, low_rank=0.5, other=0.2))
    assert set(bad.values()) == {"not reproduced"}


@pytest.mark.ci
def test_a_report_counts_stored_numbers_and_fits_no_law_of_gmse_to_them():
    seen = invented.evidence(parametrizations, worth(shared=1.6, pruned=0.45, low_rank=0.25, other=0.3), scatter=1e-4)
    found = study(seen.table, resamples=40)
    said = {sentence.rule: sentence.text for sentence in say(RULES, found)}
    assert "GMSE predicts no capacity of" in said["no prediction from GMSE"]
    assert "shared4" in said["no prediction from GMSE"]
    share = np.mean([r["stored_numbers"] / r["N"] for r in seen.records if r["weights"] == "shared4"])
    assert f"shared4 rho 0.4 by {share:.3g} of the numbers" in said["stored numbers"]
    rows = {each.curve: each for each in found.capacities}
    assert not rows["shared4"].in_law
    assert rows["top50"].in_law
    assert math.isfinite(rows["shared4"].rho.estimate)
    assert all(kind.name == "sparse" for kind in found.kinds)
    plain = replace(found, capacities=tuple(row for row in found.capacities if row.in_law))
    assert say(stored.RULES, plain) == []


def test_no_law_of_gmse_predicts_a_parametrization():
    law: Any = SimpleNamespace(best=SimpleNamespace(law=SimpleNamespace(per_format=False)))
    with pytest.raises(UserError, match=r"shared4: .* a law of GMSE says nothing of its capacity"):
        Predictor(law, (target("shared4", weights_gmse=0.75),))
