"""Laws out of Python files: the example that docs has, files that have none, several or a fault, and every command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
from support.synthetic import TRUTH, rho_of

from capscale.analysis.conditioning import jacobian
from capscale.analysis.fit import Settings, fit
from capscale.analysis.law_check import check_derivatives
from capscale.analysis.laws import LAWS, law_named
from capscale.analysis.problem import pose
from capscale.analysis.rollouts import roll_out, size_cut
from capscale.analysis.selection import rows_of
from capscale.analysis.shipped.capacity import additive
from capscale.analysis.table import make_table
from capscale.capacity import Parameter
from capscale.cli import bench, planning
from capscale.errors import UserError

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "own_law.py"
MINE = "from capscale.analysis.laws import LAWS\nfrom dataclasses import replace\n"


def invented(cost=0.05, saved=3.0, noise=0.0):
    rows, random = [], np.random.default_rng(0)
    for weights in ("dense", "int2", "int3", "int4"):
        for N in (1e7, 5e7, 2e8):
            for D in (1e9, 1e10):
                for share in (0.0, 0.5) if weights != "dense" else (0.0,):
                    added = 0.0 if weights == "dense" else cost * np.exp(-saved * share)
                    loss = float(TRUTH.loss(N, D, rho_of(weights))) + added + random.normal(0, noise)
                    row = {"run": f"{weights} {N:g} {D:g} {share}", "N": N, "D": D, "loss": loss, "weights": weights}
                    rows.append(row | {"activations": "dense", "dense_share": share})
    return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "runs.csv"
    pd.DataFrame(invented(noise=0.003)).to_csv(path, index=False)
    return str(path)


def test_the_example_finds_the_numbers_that_its_runs_were_invented_with():
    law = law_named(str(EXAMPLE))
    table = rows_of(make_table(invented(), "x", strict=False), law)
    values = fit(table, law, Settings(starts=16, shared="none")).values
    assert values["c"] == pytest.approx(0.05, rel=1e-3)
    assert values["w"] == pytest.approx(3.0, rel=1e-3)
    assert values["F"] == pytest.approx(0.41, rel=1e-2)


def printed(command, arguments, capsys):
    tyro.cli(command, args=arguments)()
    return json.loads(capsys.readouterr().out)


@pytest.mark.ci
def test_bench_and_predict_take_it(runs, capsys):
    named = f"{EXAMPLE}:FIXED_COST"
    told = printed(bench.Bench, [runs, "--laws", named, "--json", "--keep-suspect"], capsys)
    assert [line["law"] for line in told["tables"][0]["laws"]][:1] == ["fixed-cost"]
    asked = [runs, "--form", named, "--weights", "int4", "--N", "5e7", "--D", "1e10", "--json", "--keep-suspect"]
    predicted = printed(planning.Predict, [*asked, "--column", "dense_share=0.5"], capsys)
    assert predicted["loss"]["estimate"] == pytest.approx(
        TRUTH.loss(5e7, 1e10, rho_of("int4")) + 0.05 * np.exp(-1.5), abs=2e-3
    )
    with pytest.raises(UserError, match=r"reads column dense_share .*--column dense_share=VALUE"):
        tyro.cli(planning.Predict, args=asked)()


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "", "law file '.*' does not exist; check the path"),
        ("x = 1\n", "", "has no law of its own; end it with one"),
        ("from capscale.analysis.shipped.capacity import DECOUPLED\n", "", "has no law of its own"),
        (
            MINE + "a = replace(LAWS['tanh'], name='a')\nb = replace(a, name='b')\n",
            "",
            r"has several laws, a, b; choose one: .*:a",
        ),
        (MINE + "a = replace(LAWS['tanh'], name='a')\n", ":c", "has no law 'c'; it has a"),
        ("1 / 0\n", "", r"cannot be read: ZeroDivisionError: division by zero \(.*, line 1\); mend the file"),
        ("def (:\n", "", r"cannot be read: SyntaxError: .*line 1\); mend the file"),
    ],
)
def test_a_file_without_the_law_is_refused(tmp_path, text, name, said):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        law_named(f"{path}{name}")


def test_a_law_of_a_file_is_found_by_its_name_or_its_variables(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE + "FIRST = replace(LAWS['tanh'], name='one')\nother = replace(FIRST, name='two')\n")
    assert law_named(f"{path}:one").name == law_named(f"{path}:FIRST").name == "one"
    assert law_named(f"{path}:two").name == "two"


def test_a_name_that_no_law_has_is_refused_with_the_closest():
    with pytest.raises(UserError, match=r"law 'kaplam' is unknown; did you mean kaplan.*The laws are dense, decoupled"):
        law_named("kaplam")
    assert all(law_named(name) is law for name, law in LAWS.items())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return p.A * x.N**-p.alfa", "no number 'alfa'; it has A, B, alpha, beta, E"),
        ("return p.A * (x.N - 1e30) ** -p.alpha", "no start reached a finite objective"),
        ("return nothing", r"of the mine law raises NameError: .*mine.py, line 4\)"),
        ("return x.columns['absent']", "of the mine law raises KeyError: 'absent'"),
        ("import numpy as np; return np.array(x.N) * p.A", "of the mine law raises Tracer"),
        ("return p.A * x.N.sum()", r"gives an array of shape \(\) for 42 runs"),
    ],
)
def test_a_loss_that_cannot_be_computed_is_the_users_to_mend(tmp_path, body, said):
    path = tmp_path / "mine.py"
    path.write_text(MINE + f"def loss(x, p):\n    {body}\nmine = replace(LAWS['decoupled'], name='mine', loss=loss)\n")
    law = law_named(str(path))
    with pytest.raises(UserError, match=said), np.errstate(invalid="ignore"):
        fit(make_table(invented(), "x", strict=False), law, Settings(starts=2))


def with_number(loss, **start):
    """The decoupled law with a number h from 0 to 1, and this loss."""
    h = Parameter("h", 0.0, 1.0, start.get("start", (0.0, 0.5)))
    return replace(LAWS["decoupled"], name="mine", loss=loss, parameters=(*LAWS["decoupled"].parameters, h))


def test_a_law_that_ends_at_a_bound_beyond_which_it_is_not_finite_is_fitted():
    """h^1.5 of a number that the runs want to be 0: derivatives are to the inside there."""
    law = with_number(lambda x, p: additive(x, p) + x.xp.where(x.compressed, p.h + p.h**1.5, 0.0))
    found = fit(
        make_table(invented(cost=-0.05, noise=0.003), "x", strict=False), law, Settings(starts=4, shared="none")
    )
    assert "h" in found.bounds_hit
    assert np.all(np.isfinite(jacobian(found)))


def test_a_law_that_is_not_finite_beside_its_optimum_is_refused():
    law = with_number(lambda x, p: additive(x, p) + x.xp.where(p.h > 0.5, x.xp.nan, 0.0))
    problem = pose(make_table(invented(), "x", strict=False), law)
    z, free = np.mean([q.start for q in problem.parameters], axis=1), np.ones(len(problem.names), bool)
    place = problem.names.index("h")
    z[place] = 0.4
    check_derivatives(problem, z, free)
    z[place] = 0.5
    with pytest.raises(UserError, match=r"ended at h = 0.5, beside which its loss is not finite: .*bounds of h"):
        check_derivatives(problem, z, free)
    check_derivatives(problem, z, free & (np.arange(len(z)) != place))


def test_a_law_that_overflows_beyond_a_cut_is_left_out_there():
    """exp(exp(h N)) told by the smaller models, of which the largest have nothing."""
    law = with_number(lambda x, p: p.E + 1e-4 * x.xp.exp(x.xp.exp(2 * x.N * p.h)), start=(0.0, 0.3))
    table, N = make_table(invented(), "x", strict=False), np.array([1e7, 5e7, 2e8])
    size = np.searchsorted(N, table.column("N"))
    loss = 2 + np.random.default_rng(0).normal(0, 1e-4, len(table)) + np.array([0.0, 0.15, 0.0])[size]
    table = replace(table, rows=tuple(r._replace(loss=float(x)) for r, x in zip(table.rows, loss, strict=True)))
    whole = fit(table, law, Settings(starts=4, shared="none"))
    assert roll_out(whole, size_cut(table, 5e7)) is None
