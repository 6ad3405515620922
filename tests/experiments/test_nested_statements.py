"""Statements about nested integers: on invented losses either way, and on committed rows as the text says."""

import pytest
from capscale.experiments import nested
from support import invented

from capscale.analysis.claims import judge
from capscale.analysis.evidence import Evidence
from capscale.formats.catalog import label
from capscale.train.record import slice_row


def verdicts(rise):
    """Of runs whose loss is 2 nats and what `rise` says of the name of their weights, and of every slice."""
    rows = []
    for number, run in enumerate(invented.planned(nested)):
        (row,) = invented.records([run], lambda representation: 1.0, scatter=0.002, seed=number)
        name = label(run.representation.weights.format)
        told = [row, *([] if "int" in name else [slice_row(run, bits, row["loss"], 0.01, 1.0) for bits in (4, 2)])]
        rows += [each | {"run": row["run"], "loss": row["loss"] + rise(each["weights"])} for each in told]
    found = nested.estimates(Evidence(tuple(rows), "invented", "nano"))
    return {claim.name: judge(claim, found[claim.name]).verdict for claim in nested.STATEMENTS}


@pytest.mark.ci
def test_losses_decide():
    better = verdicts(lambda name: 0.1 if name == "affine-int2" or "weighted" in name else 0.0)
    assert set(better.values()) == {"reproduced"}
    worse = verdicts(lambda name: 0.1 if name.startswith("nested-8-4-2") and "weighted" not in name else 0.0)
    assert set(worse.values()) == {"not reproduced"}
