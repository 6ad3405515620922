"""Claims of Finding 1 on rows where they are true, where they are false, and where runs are missing."""

import pytest
from capscale.experiments import finding1
from support import invented

from capscale.capacity import TANH, Capacity
from capscale.formats.catalog import label
from capscale.representation import Representation

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def kind_of(representation: Representation) -> str:
    return next(kind for kind in finding1.KINDS if label(representation.weights.format) in finding1.KINDS[kind])


def by_kind(representation):
    """A curve of its own for every kind."""
    F = {"integers": 0.41, "floats": 0.41, "sparsity": 0.7, "codebooks of dimension 2": 0.5}[kind_of(representation)]
    return float(Capacity(TANH, (("F", F), ("C", 1.39))).rho(invented.weights_gmse(representation)))


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(finding1, by_kind)


def test_where_every_kind_has_its_curve(seen):
    found = invented.judged(finding1, seen)
    assert {name: j.verdict for name, j in found.items()} == dict.fromkeys(found, "reproduced")
    assert "one curve through all kinds: RMSE of rho 0.0" in found["one-curve-integers"].estimate.note


def test_where_capacity_is_no_function_of_the_error():
    """Every other format of a kind is worth half."""

    def rho(representation):
        names = finding1.KINDS[kind_of(representation)]
        return by_kind(representation) * (0.5 if names.index(label(representation.weights.format)) % 2 else 1.0)

    found = invented.verdicts(finding1, invented.evidence(finding1, rho))
    assert {found[f"one-curve-{kind}"] for kind in ("integers", "sparsity", "codebooks")} == {"not reproduced"}


def test_where_more_error_is_more_capacity():
    found = invented.verdicts(
        finding1, invented.evidence(finding1, lambda r: 0.3 + 0.7 * invented.weights_gmse(r) ** 0.2)
    )
    assert {found[f"order-{kind}"] for kind in ("integers", "floats", "sparsity", "codebooks")} == {"not reproduced"}


def test_without_a_kind_the_others_are_decided():
    seen = invented.evidence(finding1, by_kind, keep=lambda run: run.representation.hadamard is not None)
    records = [
        *seen.records,
        *invented.records([r for r in invented.planned(finding1) if r.representation.weights.is_dense], by_kind),
    ]
    found = invented.judged(finding1, type(seen)(tuple(records), "invented", "nano"))
    assert "top50" in found["order-sparsity"].reason
    assert found["order-integers"].verdict == "reproduced"


@pytest.mark.ci
def test_the_figure(seen):
    assert invented.draw(finding1, seen)
