"""Claims of Table 3 on rows where they are true, where they are false, and where runs are missing."""

from dataclasses import replace

import numpy as np
import pytest
from capscale.experiments import tab3
from support import invented

from capscale.analysis.evidence import Evidence
from capscale.capacity import TANH_SATURATING, Capacity


def curves(**llama):
    """The printed curve of every family; Llama's with other numbers."""
    printed = {family: {n: row[n].value for n in ("F", "C", "Lsat")} for family, row in tab3.PRINTED.items()}
    printed["llama"] |= llama
    return {family: Capacity(TANH_SATURATING, tuple(numbers.items())) for family, numbers in printed.items()}


def drawn(by_family, keep=lambda run: True, **options):
    """Rows of both families, each on its own curve."""
    rows = []
    for k, (family, curve) in enumerate(by_family.items()):
        kept = [run for run in invented.planned(tab3) if run.model.family == family and keep(run)]
        rows += invented.records(kept, lambda r, c=curve: float(c.rho(invented.weights_gmse(r))), seed=k, **options)
    return Evidence(tuple(rows), "invented", "nano")


@pytest.fixture(scope="module")
def seen():
    return drawn(curves())


@pytest.fixture(scope="module")
def found(seen):
    return invented.judged(tab3, seen)


@pytest.mark.ci
def test_where_the_curves_are_the_printed_ones(found):
    decided = {name: j for name, j in found.items() if not j.claim.beyond}
    assert len(decided) == 8
    assert {j.verdict for j in decided.values()} == {"reproduced"}
    assert {j.verdict for name, j in found.items() if name not in decided} == {"undecided at this scale"}
    own = decided["F-llama"].estimate
    assert own.note.startswith(f"F = {own.value:.3f} ({own.low:.3f} to {own.high:.3f}), C = ")


@pytest.mark.ci
def test_alpha_and_E_are_told_and_beta_is_not_where_all_runs_have_the_same_tokens(found):
    alpha, E = found["alpha-llama"].estimate, found["E-olmo2"].estimate
    assert alpha.low < invented.LAW.alpha < alpha.high
    assert E.low < E.high
    assert "one number of tokens" in found["beta-llama"].estimate.missing


def test_families_scatter_independently(found):
    one, other, difference = (found[name].estimate for name in ("F-llama", "F-olmo2", "F-olmo2-not-above"))
    assert difference.value == pytest.approx(other.value - one.value)
    assert difference.deviation == pytest.approx(np.hypot(one.deviation, other.deviation), rel=0.3)


def test_a_number_on_its_bound_is_not_told():
    """Losses that fall towards less than 0 have E at 0, where resamples end as well."""
    steep = replace(invented.LAW, A=6.0, alpha=0.05, E=-2.0)
    found = tab3.estimates(drawn(curves(), keep=lambda run: run.model.family == "llama", law=steep, scatter=0.002))
    assert "E ended on a bound" in found["E-llama"].missing


@pytest.mark.ci
def test_where_llama_has_other_numbers():
    found = invented.verdicts(tab3, drawn(curves(F=0.25, C=1.0)))
    wrong = {"F-llama", "C-llama", "F-olmo2-not-above"}
    assert {found[name] for name in wrong} == {"not reproduced"}
    assert found["F-olmo2"] == "reproduced"


def test_without_the_second_family_only_the_first_is_judged():
    found = invented.judged(tab3, drawn(curves(), keep=lambda run: run.model.family == "llama"))
    assert found["F-llama"].verdict == "reproduced"
    for name in ("F-olmo2", "curve-olmo2", "F-olmo2-not-above", "E-olmo2"):
        assert found[name].verdict == "undecided at this scale"
        assert found[name].estimate.missing, name


def test_the_figure(seen):
    assert invented.draw(tab3, drawn(curves(), keep=lambda run: False))
    assert invented.draw(tab3, seen)
