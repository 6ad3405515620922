"""Statements about corrections: on invented losses either way."""

from capscale.experiments import cage
from support import invented

from capscale.analysis.claims import judge
from capscale.analysis.evidence import Evidence
from capscale.representation import DENSE


def found(recovered):
    """Verdicts where straight-through training costs .2 nats at every size, and a correction takes a share off it."""
    rows = []
    for number, run in enumerate(invented.planned(cage)):
        (row,) = invented.records([run], lambda representation: 1.0, scatter=0.004, seed=number)
        if run.representation != DENSE:
            row["loss"] += 0.2 if run.optimizer.correction is None else 0.2 * (1 - recovered(run.optimizer.correction))
        rows.append(row)
    seen = Evidence(tuple(rows), "invented", "nano")
    estimates = cage.estimates(seen)
    return {claim.name: judge(claim, estimates[claim.name]).verdict for claim in cage.STATEMENTS}


def test_shares_of_the_rise_decide():
    of_cage = {"cage-w4a4", "cage-w4", "cage-w2"}
    better = found(lambda correction: 0.3 if correction == cage.CAGE else -0.3)
    assert {name for name, verdict in better.items() if verdict == "reproduced"} == of_cage
    assert better["decay-w2"] == "not reproduced"
    worse = found(lambda correction: -0.3 if correction == cage.CAGE else 0.3)
    assert {name for name, verdict in worse.items() if verdict == "not reproduced"} == of_cage
    assert worse["decay-w2"] == "reproduced"
