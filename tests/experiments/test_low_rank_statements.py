"""Statements about low rank as a format and as a compensation, once and by rounds: on invented rows either way."""

from capscale.experiments import low_ranks
from support import invented

from capscale.analysis.claims import judge


def verdicts(rho_of):
    found = low_ranks.estimates(invented.evidence(low_ranks, rho_of))
    return [judge(claim, found[claim.name]).verdict for claim in low_ranks.STATEMENTS]


def test_statements_hold_and_fail_as_the_runs_have_them():
    worth = {"nearest-lowrank0.5": 0.6, "nearest-lowrank0.25": 0.5, "nearest-lowrank-r4": 0.5}
    worth |= {"int2": 0.3, "int3": 0.4, "int2~lowrank0.125": 0.5, "int2~lowrank0.125-rounds3": 0.65}
    worth |= {"int2-outliers5": 0.35, "int2-outliers5~lowrank0.125": 0.5}
    assert set(verdicts(lambda held: worth.get(held.weights_label, 0.3))) == {"reproduced"}
    assert set(verdicts(lambda held: 0.9 - worth.get(held.weights_label, 0.3))) == {"not reproduced"}
