import numpy as np
import pytest
from support.synthetic import rho_of

from capscale.analysis.kinds import Points, across, kinds, rank_interval
from capscale.analysis.measure import Capacities
from capscale.analysis.operands import kind_of
from capscale.analysis.table import make_table
from capscale.capacity import LOGISTIC, TANH


def measured(rho, spread=0.01, why_not=None):
    """A table of one run a format, and capacities with resamples of that spread."""
    rows = [
        {
            "N": 1e6,
            "D": 1e8,
            "loss": 3.0,
            "weights": w,
            "activations": a or "dense",
            "weights_estimator": e,
            "run": name,
        }
        for name in rho
        for format_name, _, e in [name.removesuffix("]").partition(" [")]
        for w, _, a in [format_name.partition(" x ")]
    ]
    table = make_table(rows, "x", strict=False)
    names = table.curves
    random = np.random.default_rng(0)
    values = np.array([rho[n] for n in names])
    draws = values + random.normal(0, spread, (200, len(names)))
    return Points(table, Capacities("made", names, values, draws, tuple((why_not or {}).get(n, "") for n in names)))


INTEGERS = {n: rho_of(n) for n in ("int1", "int2", "int3", "int4", "int8")}
SPARSE = {n: rho_of(n) for n in ("top75", "top50", "2:4")}


@pytest.mark.parametrize(
    ("weights", "activations", "kind"),
    [
        ("int4", "dense", "integer"), ("e2m1", "dense", "float"), ("2:4", "dense", "sparse"),
        ("top50", "dense", "sparse"), ("2:4+int4", "dense", "sparse-quantized"), ("higgs-d2-n16", "dense", "vector"),
        ("noise2", "dense", "noise"), ("lsq4", "dense", "learned integer"), ("dense", "int4", "integer activations"),
        ("int4", "int8", "integer weights, integer activations"), ("mine", "dense", "mine"),
    ],
)  # fmt: skip
def test_kinds_of_representation(weights, activations, kind):
    row = {"N": 1e6, "D": 1e8, "loss": 3.0, "weights": weights, "activations": activations}
    assert kind_of(make_table([row], "x").rows[0]) == kind


def test_each_kind_has_its_own_rank_and_curve():
    found = {k.name: k for k in kinds(measured({**INTEGERS, **SPARSE, "2:4+int4": 0.4}), TANH)}
    assert list(found) == ["integer", "sparse", "sparse-quantized"]
    assert found["integer"].rank.estimate == pytest.approx(1)
    assert found["integer"].curves == ("int8", "int4", "int3", "int2", "int1")
    assert dict(found["integer"].law.capacity.values) == pytest.approx({"F": 0.41, "C": 1.39}, abs=1e-3)
    assert found["sparse"].law is not None
    assert found["sparse-quantized"].rank is None
    assert found["sparse-quantized"].law is None


def test_a_kind_that_ends_below_dense_has_an_lsat_and_another_has_none():
    """Learned steps on .8 of the curve; integers on the curve itself, whose Lsat is 1 within its interval."""
    learned = {f"lsq{bits}": 0.8 * rho_of(f"int{bits}") for bits in (2, 3, 4, 8)}
    found = {k.name: k for k in kinds(measured({**INTEGERS, **learned}), TANH)}
    assert found["learned integer"].lsat.estimate == pytest.approx(0.8, abs=0.01)
    assert found["learned integer"].lsat.high < 1
    assert found["learned integer"].law.form.name == "tanh-sat"
    assert found["integer"].lsat is None
    assert found["integer"].law.form.name == "tanh"
    assert {k.lsat for k in kinds(measured({**INTEGERS, **learned}), LOGISTIC)} == {None}


def test_what_is_not_measured_or_has_no_one_error_is_in_no_kind():
    given = {**INTEGERS, "int4 x int4": 0.6, "mine": 0.5, "top50 [fw]": 0.9}
    found = kinds(measured(given, why_not={"int1": "at its bound"}), TANH)
    assert [k.curves for k in found] == [("int8", "int4", "int3", "int2")]


def test_one_curve_holds_where_kinds_share_it():
    found = across(measured({**INTEGERS, **SPARSE}), TANH)
    assert found.verdict == "holds"
    assert {d.kind for d in found.departures} == {"integer", "sparse"}
    # int8 and int4 are far beyond the errors of sparse formats, and are not compared with their curve.
    assert next(d for d in found.departures if d.kind == "integer").curves == ("int3", "int2", "int1")


def test_one_curve_is_denied_where_a_kind_stands_off_it():
    found = across(measured({**INTEGERS, **{n: rho + 0.15 for n, rho in SPARSE.items()}}), TANH)
    assert found.verdict == "denied"
    assert next(d for d in found.departures if d.kind == "sparse").rho.low > 0.05


@pytest.mark.parametrize(
    ("rho", "spread", "verdict"),
    [
        ({**INTEGERS, **SPARSE}, 0.15, "open"),
        ({**INTEGERS, "top10": rho_of("top10")}, 0.01, "open"),
        (INTEGERS, 0.01, "one kind"),
        ({"int2": 0.4, "top50": 0.5}, 0.01, "few formats"),
    ],
)
def test_where_it_cannot_be_told(rho, spread, verdict):
    assert across(measured(rho, spread), TANH).verdict == verdict


def test_rank_intervals():
    gmse, rho = np.array([0.01, 0.1, 0.3]), np.array([0.9, 0.5, 0.2])
    sure = np.tile(rho, (50, 1))
    assert rank_interval(gmse, rho, sure) == (1, 1, 1)
    assert rank_interval(gmse, rho[::-1], sure[:, ::-1]).high == -1
    assert rank_interval(gmse[:2], rho[:2], sure[:, :2]) is None
    assert rank_interval(gmse, np.full(3, 0.5), sure) is None
    assert rank_interval(np.full(3, 0.1), rho, sure) is None
    # Resamples in which all capacities are equal have no order and are passed over, without a warning.
    assert rank_interval(gmse, rho, np.vstack([sure, np.full((50, 3), 0.5)])) == (1, 1, 1)
