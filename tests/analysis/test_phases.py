"""Tokens of dense and of quantized training, from the policies of rows as from columns."""

from pathlib import Path

import numpy as np
import pytest

from capscale.analysis.arrays import gather
from capscale.analysis.laws import LAWS
from capscale.analysis.phases import PHASES
from capscale.analysis.rows import read
from capscale.analysis.selection import rows_of
from capscale.analysis.table import make_table

LAW = LAWS["dremov"]
RESULTS = Path(__file__).parents[2] / "experiments/results"


def drawn(*, policies: bool):
    """Rows of INT4 and INT2 from a quarter and from .9 of 30 steps on, and dense ones, told by policies or columns."""
    rows = []
    for k, (name, N) in enumerate((name, N) for name in ("dense", "int4", "int2") for N in (1e6, 4e6)):
        for starts in (0.25, 0.9) if name != "dense" else (0.0,):
            row = {"run": f"{name} {N:g} {starts}", "N": N, "D": 3e8, "loss": 3.0 + 0.01 * k + starts, "steps": 30}
            row |= {"weights": name, "activations": "dense", "seed": 0}
            if policies:
                text = f".*={name} hadamard 128 starts {starts:g}"
                row |= {"policy": text, "weights": "mixed", "weights_gmse": 0.0115} if starts else {"policy": ""}
            else:
                # The quarter of 30 steps begins with step 8: seven and a half are no whole number of steps.
                dense = {0.25: 8 / 30, 0.9: 0.9}.get(starts, 1.0) * 3e8
                row |= {"dense_tokens": dense, "qat_tokens": 3e8 - dense} if starts else {}
                told = {"hadamard": 128, "weights_estimator": "trust", "activations_estimator": "straight-through"}
                row |= told if starts else {}
            rows.append(row)
    return make_table(rows, "x", strict=False)


def read_by_the_law(table):
    chosen = rows_of(table, LAW)
    return chosen, gather(chosen.rows, LAW, ((), (), ()), (1.0, 1.0))


def test_policies_tell_the_law_what_columns_would():
    (by_policy, found), (by_column, expected) = (read_by_the_law(drawn(policies=p)) for p in (True, False))
    order, wanted = (np.argsort([r.run for r in t.rows]) for t in (by_policy, by_column))
    for name in PHASES:
        np.testing.assert_allclose(found.columns[name][order], expected.columns[name][wanted], rtol=1e-12)
    np.testing.assert_array_equal(found.weights.bits[order], expected.weights.bits[wanted])
    assert set(found.weights.bits) == {16.0, 4.0, 2.0}
    assert [by_policy.rows[i].recipe for i in order] == [by_column.rows[i].recipe for i in wanted]


def test_rows_of_our_own_sweep_are_read():
    """44 runs: dense, INT4 and INT2 from the start on, which have no dense phase, and from four shares on."""
    table = read(RESULTS / "dense_then_qat.csv")
    chosen = rows_of(table, LAW)
    assert (len(table), len(chosen)) == (44, 36)
    assert sum("no dense phase before it" in r.what for r in chosen.remarks) == 8
    shares = {round(r.extra["qat_tokens"] / r.D, 6) for r in chosen.rows if not r.is_dense}
    assert shares == {0.75, 0.5, 0.25, 0.1}
    assert all(sum(r.extra[name] for name in PHASES) == pytest.approx(r.D) for r in chosen.rows if not r.is_dense)
    assert {r.weights for r in chosen.rows} == {"dense", "int4", "int2"}
    plain = rows_of(table, LAWS["tanh"])
    assert len(plain) == 12, "a law that reads no phases leaves the policies out, as before"


def test_policies_of_several_formats_are_none_of_its_rows():
    rows = [dict(r._asdict()) for r in drawn(policies=True).rows]
    rows = [{k: v for k, v in r.items() if k not in ("curve", "extra")} | {"steps": 30} for r in rows]
    others = ("layers/0/.*=dense; .*=int4 starts 0.5", "layers/.*=int4 starts 0.5", ".*=int4")
    rows += [rows[-1] | {"run": f"other {k}", "policy": text, "loss": 4.0 + k} for k, text in enumerate(others)]
    chosen = rows_of(make_table(rows, "x", strict=False), LAW)
    assert not [r.run for r in chosen.rows if r.run.startswith("other")]
    assert len([r for r in chosen.remarks if "holds its layers in several formats" in r.what]) == 3
