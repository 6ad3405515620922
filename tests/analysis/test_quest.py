"""QuEST's 104 published runs: fits checked on data that nobody here made."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from capscale.analysis.fit import Constraints, Settings, fit
from capscale.analysis.inspection import inspect
from capscale.analysis.laws import LAWS
from capscale.analysis.leaderboard import law_bench
from capscale.analysis.quest import quest_records
from capscale.analysis.rows import read
from capscale.analysis.sentences import fits
from capscale.analysis.sentences.rule import say
from capscale.analysis.validation import hold_out, validate
from capscale.capacity import Scaling
from capscale.errors import UserError

FILE = Path(__file__).resolve().parents[2].parent / "shared" / "rundata" / "quest" / "runs_for_scaling.json"
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there: QuEST's published runs"),
]

INDEPENDENT = Settings(shared="none")
STORED = Scaling(A=8.1340, alpha=0.06273, B=86.412, beta=0.24129, E=0.00142)
FP4, FOUR_EIGHT = "e2m1 [trust-radius 0.3186]", "4:8-pairs+int4-dense-scales"
STORED_RHO = {
    "int1 x int1 [hadamard 128]": 0.0205, "int2 x int2 [hadamard 128]": 0.1519, "int3 x int3 [hadamard 128]": 0.4331,
    "int4 x int4 [hadamard 128]": 0.6918, "int8 x int8 [hadamard 128]": 1.0162, f"{FP4} x {FP4}": 0.6296,
    f"{FOUR_EIGHT} x int4": 0.3812, "int1": 0.1384, "int2": 0.4137, "int3": 0.6531, "int4": 0.8404,
    "int1 x int1 [no rotation]": 0.0156, "int2 x int2 [no rotation]": 0.0784, "int3 x int3 [no rotation]": 0.3221,
    "int4 x int4 [no rotation]": 0.6033, "int8 x int8 [no rotation]": 0.9376, "dense": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return read(FILE)


@pytest.fixture(scope="module")
def rotated(table):
    """The 60 rotated rows of 2, 3, 4 and 8 bits, weights and activations or weights alone, and dense."""

    def wanted(r):
        return r.is_dense or (r.hadamard == "128" and r.weights in ("int2", "int3", "int4", "int8"))

    chosen = table.select(np.array([wanted(r) for r in table.rows]))
    assert len(chosen) == 60
    return chosen


def test_traps_of_the_file(table):
    assert len(table) == 104
    assert not table.remarks
    counts = Counter(r.curve for r in table.rows)
    assert counts[f"{FP4} x {FP4}"] == 4  # says 16 bits
    assert counts[f"{FOUR_EIGHT} x int4"] == 6  # says 4 bits
    one_bit = Counter((r.weights_estimator, r.hadamard) for r in table.rows if r.weights == "int1")
    assert one_bit == {("clip 1.3", "128"): 10, ("clip 1.25", ""): 5}
    assert all(r.is_plain for r in table.rows)  # the authors' recipes, whatever our defaults are
    assert counts["dense"] == 6
    assert set(counts) == set(STORED_RHO)


def test_unknown_class_is_refused():
    record = {"w_quant": "LSQQuantizer", "a_quant": "NoQuantizer", "w_bits": 4, "a_bits": 16}
    with pytest.raises(UserError, match="LSQQuantizer"):
        quest_records([record | {"non_embedding_parameters": 1, "tokens": 1, "loss": 1.0}])


def test_stored_parameters_give_the_authors_residuals(table):
    rho = np.array([STORED_RHO[r.curve] for r in table.rows])
    residuals = table.column("loss") - STORED.loss(table.column("N"), table.column("D"), rho)
    # The authors fitted these very rows: a unit or format mix-up would leave tenths of a nat.
    assert np.sqrt(np.mean(residuals**2)) < 0.016
    assert np.abs(residuals).max() < 0.06


@pytest.mark.parametrize("delta", [1e-4, 1e-3, 1e-2])
def test_decoupled_fit_is_at_least_as_good_as_the_stored_one(table, delta):
    fitted = fit(table, LAWS["decoupled"], Settings(delta=delta))
    rho = np.array([STORED_RHO[r.curve] for r in table.rows])
    a = np.abs(table.column("loss") - STORED.loss(table.column("N"), table.column("D"), rho))
    stored = float(np.sum(np.where(a <= delta, a * a / 2, delta * (a - delta / 2))))
    assert fitted.objective <= stored
    assert fitted.converged


def test_one_bit_rows_drive_E_to_its_bound_and_that_is_said(table):
    fitted = fit(table, LAWS["decoupled"])
    assert fitted.values["E"] < 0.05
    assert fitted.values["alpha"] == pytest.approx(0.06, abs=0.01)
    said = say(fits.RULES, inspect(fitted, profiled=False))
    assert any(s.rule == "bound" and s.text.startswith("E hit its bound 0") for s in said)


@pytest.mark.parametrize("E", [0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
def test_capacities_stand_whatever_E_is(rotated, E):
    rho = fit(rotated, LAWS["decoupled"], constraints=Constraints({"E": E})).rho
    for bits, both, alone in ((2, 0.157, 0.41), (3, 0.425, 0.635), (4, 0.686, 0.82)):
        assert rho[f"int{bits} x int{bits} [hadamard 128]"] == pytest.approx(both, abs=0.015)
        assert rho[f"int{bits}"] == pytest.approx(alone, abs=0.03)


def test_alpha_does_not_stand(rotated):
    held = [Constraints({"E": E}) for E in (0.0, 1.25)]
    alphas = [fit(rotated, LAWS["decoupled"], INDEPENDENT, given).values["alpha"] for given in held]
    assert alphas == pytest.approx([0.065, 0.135], abs=0.004)


def test_weight_only_runs_give_the_papers_F_and_C(rotated):
    alone = rotated.select(np.array([r.activations == "dense" for r in rotated.rows]))
    values = fit(alone, LAWS["tanh"], constraints=Constraints({"alpha": 0.13, "beta": 0.33, "E": 1.3})).values
    assert values["F"] == pytest.approx(0.41, abs=0.02)
    assert values["C"] == pytest.approx(1.39, abs=0.08)


def test_tanh_ranks_ahead_of_kumar(rotated):
    assert fit(rotated, LAWS["kumar"]).rmse >= 3 * fit(rotated, LAWS["tanh"]).rmse


def test_held_out_formats_and_sizes(rotated):
    bench = validate(rotated, LAWS["tanh"], settings=INDEPENDENT)
    assert {f.name for f in bench.formats} == set(rotated.curves) - {"dense"}
    for fold in bench.formats:
        assert fold.rmse <= (0.022 if " x " in fold.name else 0.009), fold.name
    large = rotated.column("N") > 3e8
    assert hold_out(bench.fit, {"443M and 822M": large})[0].rmse <= 0.02


def test_bench_names_the_laws_that_do_not_apply(rotated):
    bench = law_bench(rotated, [LAWS[name] for name in ("decoupled", "tanh", "frantar")])
    line = {v.name: v for v in bench.lines}
    assert line["frantar"].fit is None
    assert "sparsity" in bench.left_out["frantar"]
    assert not line["decoupled"].formats  # it has no number for an unseen format
    assert len(line["tanh"].along("N")) == bench.cuts_along("N") > 0


def test_gain_from_tokens_depends_on_the_format(table):
    """Doubling the tokens from 25 to 50 a parameter, within one class of quantizer: the additive law says the gain is
    the same for all formats at one size; the runs' gain grows with bits at every size."""
    gain = {}
    for bits in (2, 3, 4):
        rows = [r for r in table.rows if r.curve == f"int{bits} x int{bits} [hadamard 128]" and r.D / r.N < 60]
        for N in sorted({r.N for r in rows}):
            few, more = sorted((r.D, r.loss) for r in rows if r.N == N)
            gain[bits, N] = few[1] - more[1]
    sizes = {N for _, N in gain}
    assert len(sizes) == 4
    assert all(gain[2, N] < gain[3, N] < gain[4, N] for N in sizes)
    differences = np.array([gain[4, N] - gain[2, N] for N in sizes])
    assert differences.mean() > 3 * differences.std(ddof=1) / np.sqrt(4)


def test_coupled_law_takes_that_gain_up(rotated):
    additive, coupled = fit(rotated, LAWS["decoupled"]), fit(rotated, LAWS["decoupled-coupled"])
    assert coupled.values["g"] < 0.5
    assert coupled.rmse < 0.0065
    assert additive.rmse > 0.0090
