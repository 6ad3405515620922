"""Laws with a factor of the gradients: numbers found again, told apart by held-out rows, and tables without any."""

import json
from dataclasses import replace

import numpy as np
import pytest

from capscale.analysis.fit import Settings, fit
from capscale.analysis.laws import LAWS
from capscale.analysis.predict import target
from capscale.analysis.selection import rows_of
from capscale.analysis.table import make_table
from capscale.cli import main
from capscale.errors import UserError

TRUTH = {"A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28, "E": 1.69}  # arXiv 2203.15556, eq. 10
RHO = {"dense": 1.0, "int4": 0.8, "int2": 0.5}
ETA = {"dense": 1.0, "quartet": 0.6, "int8-training": 0.9}


def records(on_tokens, noise=1e-3, gradients=tuple(ETA)):
    random, found = np.random.default_rng(0), []
    for weights, rho in RHO.items():
        for name in gradients:
            for N in (2e7, 8e7, 3.2e8):
                for ratio in (10, 40, 160):
                    D = N * ratio
                    n, d = (N * rho, D * ETA[name]) if on_tokens else (N * rho * ETA[name], D)
                    loss = TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"] + TRUTH["E"]
                    told = {"N": N, "D": D, "loss": loss + random.normal(0, noise), "weights": weights}
                    found.append(told | {"activations": "dense", "gradients": name, "run": f"run {len(found)}"})
    return found


@pytest.mark.parametrize("on_tokens", [True, False])
def test_numbers_are_found_again(on_tokens):
    law = LAWS["decoupled-gradients" if on_tokens else "decoupled-gradients-size"]
    found = fit(make_table(records(on_tokens, noise=0.0), "made"), law, Settings(starts=8, shared="none")).values
    assert {name for name in found if "[" in name} == {
        *("rho[int4]", "rho[int2]", "eta[quartet]", "eta[int8-training]")
    }
    for name, value in {**TRUTH, "rho[int4]": 0.8, "rho[int2]": 0.5, "eta[quartet]": 0.6}.items():
        assert found[name] == pytest.approx(value, rel=1e-3), name


def test_one_number_of_the_gradients_serves_all_formats():
    """A law with a free rho for each pair has twice as many; its rows still are the same table."""
    table = make_table(records(True), "made")
    free = fit(table, LAWS["decoupled"], Settings(starts=4, shared="none"))
    shared = fit(table, LAWS["decoupled-gradients"], Settings(starts=4, shared="none"))
    assert len(shared.values) == 5 + 2 + 2
    assert len(free.values) == 5 + 8  # dense forward with compressed gradients is a format of its own there
    assert np.sqrt(np.mean(np.square(shared.residuals))) < 1.3e-3
    assert np.sqrt(np.mean(np.square(free.residuals))) > 2e-3  # an error of tokens is none of parameters


@pytest.mark.ci
@pytest.mark.parametrize("on_tokens", [True, False])
def test_held_out_rows_tell_where_the_factor_is(on_tokens, tmp_path, capsys):
    """A factor on N, and one on D: of these the right one predicts longer trainings, and the other does not."""
    table, laws = tmp_path / "runs.csv", ["decoupled-gradients", "decoupled-gradients-size"]
    table.write_text(frame(records(on_tokens)))
    assert main(["bench", str(table), "--laws", *laws, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tables"]
    errors = {law["law"]: law["rmse_D"] for law in found["laws"]}
    assert 10 * errors[laws[not on_tokens]] < errors[laws[on_tokens]]


def test_shared_by_operand_is_about_plain_rows(tmp_path):
    """Else the weights of a row with compressed gradients would share their number with those of one without."""
    law = replace(LAWS["decoupled"], sharing="operand")
    assert {row.gradients for row in rows_of(make_table(records(True), "made"), law).rows} == {"dense"}


def test_a_table_without_any_is_refused():
    with pytest.raises(UserError, match=r"is about compressed gradients, and no row has any \(column gradients\)"):
        fit(make_table(records(True, gradients=("dense",)), "made"), LAWS["decoupled-gradients"])


def test_predictions_of_other_gradients_are_refused():
    found = fit(make_table(records(True), "made"), LAWS["decoupled-gradients"], Settings(starts=4, shared="none"))
    row = target("int4")._replace(gradients="nvfp4-pretraining")
    with pytest.raises(UserError, match=r"has numbers of gradients for .*quartet.* only"):
        found.problem.gather([row])
    known = found.problem.gather([target("int4")._replace(N=1e9, D=2e10, gradients="quartet")])
    dense = found.problem.gather([target("int4")._replace(N=1e9, D=2e10)])
    expected = TRUTH["B"] * 2e10 ** -TRUTH["beta"] * (0.6 ** -TRUTH["beta"] - 1)
    gap = found.problem.predict(found.z, known) - found.problem.predict(found.z, dense)
    assert float(gap[0]) == pytest.approx(expected, rel=0.05)


def frame(rows):
    names = list(rows[0])
    return "\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]) + "\n"
