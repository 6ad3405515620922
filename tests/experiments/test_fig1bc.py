"""Claims of Figures 1b and 1c on rows where they are true, where they are false, and where runs are missing."""

import pytest
from capscale.experiments import fig1bc
from support import invented

from capscale.analysis.effects import differences
from capscale.analysis.misfits import squares_beyond_scatter
from capscale.capacity import TANH, Capacity
from capscale.formats.catalog import label
from capscale.train.record import format_gmse

CURVE = Capacity(TANH, (("F", 0.41), ("C", 1.39)))


def true(representation):
    """The product over the operands of one curve of the error."""
    sides = (representation.weights, representation.activations)
    errors = [format_gmse(side.format) for side in sides if not side.is_dense]
    return float(CURVE.rho(errors).prod())


def dearer_noise(representation):
    """Noise on weights worth a fifth less than its error says, but at 4^-b, which is then no bound of integers."""
    noise = label(representation.weights.format)
    return true(representation) * (0.8 if noise.startswith("noise-as") else 0.4 if noise.startswith("noise") else 1.0)


@pytest.fixture(scope="module")
def seen():
    return invented.evidence(fig1bc, true)


def test_where_the_claims_are_true(seen):
    found = invented.verdicts(fig1bc, seen)
    assert found == dict.fromkeys(found, "reproduced")


def test_where_noise_is_worth_less():
    found = invented.verdicts(fig1bc, invented.evidence(fig1bc, dearer_noise))
    assert found == dict.fromkeys(found, "not reproduced")


def test_noise_of_another_shape_is_found_where_its_mean_is_that_of_the_integers():
    """Worth more at 3 and 4 bits and less at 1 and 2: the mean says nothing, the mean square does."""
    shift = {"noise-as-int1": 0.8, "noise-as-int2": 0.8, "noise-as-int3": 1.2, "noise-as-int4": 1.2}

    def bent(representation):
        return true(representation) * shift.get(label(representation.weights.format), 1.0)

    found = invented.verdicts(fig1bc, invented.evidence(fig1bc, bent))
    assert found["noise-on-weights"] != "not reproduced"
    assert found["noise-on-weights-at-every-width"] == "not reproduced"


def test_one_missing_format_is_left_out_and_named(seen):
    records = tuple(r for r in seen.records if r["weights"] != "noise-as-int3")
    found = fig1bc.estimates(type(seen)(records, "invented", "nano"))
    assert "noise-as-int3" in found["noise-on-weights"].note
    assert found["noise-on-weights"].missing == ""


def test_without_noise_nothing_is_decided():
    alone = invented.evidence(fig1bc, true, keep=lambda run: run.representation.hadamard is not None or run.size == "")
    found = invented.judged(fig1bc, alone)
    assert {j.verdict for j in found.values()} == {"undecided at this scale"}
    assert "needed" in found["noise-on-weights"].reason


def test_the_figure(seen):
    assert invented.draw(fig1bc, seen)


def test_squares_beyond_scatter_are_those_of_the_truth(seen):
    pairs = list(zip(fig1bc._bounds(), fig1bc._integers(), strict=True))
    truth = sum((fig1bc.np.log(true(a) / true(b))) ** 2 for a, b in pairs) / len(pairs)
    values = squares_beyond_scatter(differences(seen, pairs)[0])
    assert values[0] == pytest.approx(truth, rel=0.4)
