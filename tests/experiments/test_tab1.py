"""Claims of Table 1 on rows where they are true, where they are false, where runs are missing, and on QuEST's."""

from pathlib import Path

import numpy as np
import pytest
from capscale.experiments import tab1
from support import invented

from capscale.analysis.evidence import interval
from capscale.analysis.fit_errors import fit_errors, with_formats
from capscale.analysis.rows import read
from capscale.capacity import FRANTAR, KUMAR, TANH, Capacity, Factor
from capscale.representation import DENSE

QUEST = Path(__file__).resolve().parents[2].parent / "shared" / "rundata" / "quest" / "runs_for_scaling.json"
CURVES = {True: Capacity(TANH, (("F", 0.41), ("C", 1.39))), False: Capacity(TANH, (("F", 0.62), ("C", 0.75)))}
"""Of rotated integers, and of sparsities."""


def true(representation):
    return float(CURVES[representation.hadamard is not None].rho(invented.weights_gmse(representation)))


def by_names(representation):
    """Kumar's law for integers, Frantar's for sparsities."""
    fmt = representation.weights.format
    rotated = representation.hadamard is not None
    share = np.array([0.5 if rotated else 1 - fmt.density])
    factor = Factor(np.array([np.nan]), np.array([float(fmt.bits)]), share)
    form, numbers = (KUMAR, {"gamma": 2.4}) if rotated else (FRANTAR, {"b_S": 0.7, "c_S": 0.4})
    return float(np.exp(form.log_rho(numbers, factor, invented.LAW.alpha))[0])


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(tab1, true)


@pytest.mark.ci
def test_where_the_claims_are_true(seen):
    found = invented.judged(tab1, seen)
    assert {j.verdict for name, j in found.items() if name != "frantar-above-tanh"} == {"reproduced"}
    assert found["frantar-above-tanh"].estimate.value > 0  # a tenth of the scatter: told or not by chance


@pytest.mark.ci
def test_where_the_other_laws_are_true():
    found = invented.judged(tab1, invented.evidence(tab1, by_names, scatter=0.002))
    assert found["kumar-worst"].verdict == "not reproduced"
    assert found["frantar-above-tanh"].verdict == "not reproduced"
    assert found["tanh-near-decoupled-quantization"].verdict == "not reproduced"


def test_without_sparse_runs_their_claims_are_undecided():
    sparse = lambda run: run.representation != DENSE and run.representation.hadamard is None  # noqa: E731
    kept = invented.evidence(tab1, true, keep=lambda run: not sparse(run))
    found = invented.judged(tab1, kept)
    assert found["kumar-worst"].verdict == "reproduced"
    assert found["frantar-above-tanh"].verdict == "undecided at this scale"
    assert "no result of top10" in found["frantar-above-tanh"].reason


def test_no_runs_at_all():
    found = invented.judged(tab1, invented.evidence(tab1, true, keep=lambda run: False))
    assert {j.verdict for j in found.values()} == {"undecided at this scale"}


def test_the_figure(seen):
    assert invented.draw(tab1, invented.evidence(tab1, true, keep=lambda run: False))
    assert invented.draw(tab1, seen)


@pytest.mark.ci
@pytest.mark.skipif(not QUEST.is_file(), reason=f"{QUEST} is not there: QuEST's published runs")
def test_the_order_of_errors_on_quests_weights():
    table, _ = with_formats(read(QUEST), tab1.QUANTIZED)
    rotated = table.select(
        np.array([r.is_dense or (r.activations == "dense" and r.hadamard != "") for r in table.rows])
    )
    found = fit_errors(rotated, tab1.QUANTIZATION.laws)
    assert interval(found.log_ratio("kumar", "tanh")).low > 0
