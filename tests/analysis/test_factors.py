"""Factors found in the formats of a table: operands, stages of the weights, three at once."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro
from support.synthetic import NANO, SIZES

from capscale.analysis.evidence import capacities_of
from capscale.analysis.factorization import entry_intervals, product
from capscale.analysis.factors import Stages, found_factors, grids, missing, stages
from capscale.analysis.table import make_table
from capscale.cli.factorizing import Factorize
from capscale.errors import UserError

OWN = {"dense": 1.0, "top50": 0.6, "top75": 0.4, "int2": 0.5, "int4": 0.9}
PER_TOKEN = {"dense": 1.0, "int3": 0.7, "int8": 0.98}
DENSE_SIZES = (464.0, 1280.0, *SIZES)
STAGED = [f"{s}+{b}-dense-scales" for s in ("top50", "top75") for b in ("int2", "int4")]


def rows(formats, *, noise=0.001, bent=1.0):
    """Two seeds of every (weights, activations, hadamard) whose capacity is a product, times `bent` where two work."""
    random, found = np.random.default_rng(0), []
    for weights, activations, hadamard in [("dense", "dense", None), *formats]:
        split = stages(weights)
        own = [OWN[split.sparsity], OWN[split.bits], PER_TOKEN[activations]]
        rho = np.prod(own) * (bent if sum(r < 1 for r in own) > 1 else 1.0)
        for N in DENSE_SIZES if weights == activations == "dense" else SIZES:
            for seed in (0, 1):
                loss = float(NANO.loss(N, 2e6, rho)) + random.normal(0, noise)
                row = {"N": N, "D": 2e6, "loss": loss, "weights": weights, "activations": activations, "seed": seed}
                if "rotated" in weights:  # measured for seconds, and nothing here reads it
                    row["weights_gmse"] = 0.1
                found.append({**row, "hadamard": hadamard, "run": f"{weights} {activations} {hadamard} {N:g} {seed}"})
    return found


def table(formats, **options):
    return make_table(rows(formats, **options), "x")


def found(formats, factors=None, **options):
    made = table(formats, **options)
    return grids(made, capacities_of(made, 200), factors)


OPERANDS = [(w, a, "128") for w in ("dense", "int2", "int4") for a in PER_TOKEN][1:]
STAGES = [(n, "dense", "128") for n in ("top50", "top75", "int2", "int4", *STAGED)]
THREE = [(n, a, "128") for n in ("dense", "top50", "int4", "top50+int4-dense-scales") for a in PER_TOKEN][1:]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("top50+int4-dense-scales", Stages("top50", "int4", "scales of the dense weights")),
        ("top50+int4", Stages("top50", "int4", "scales of the weights kept")),
        ("2:4+absmax-int4", Stages("2:4", "absmax-int4", "scales of the weights kept")),
        ("top50+rotated-int4", Stages("top50", "int4", "mask before the rotation", False)),
        ("top50-row", Stages("top50-row", "dense", "")),
        ("int3-g4", Stages("dense", "int3-g4", "")),
        ("higgs-d2-n16", Stages("dense", "higgs-d2-n16", "")),
        ("my+format", Stages("dense", "my+format", "")),
    ],
)
def test_stages_are_the_parts_of_the_format(name, expected):
    assert stages(name) == expected


@pytest.mark.parametrize(
    ("formats", "factors", "shape", "tested"),
    [
        (OPERANDS, "weights,activations", (3, 3), 4),
        (STAGES, "sparsity,bits", (3, 3), 4),
        (THREE, "sparsity,bits,activations", (2, 2, 3), 7),
    ],
)
def test_a_table_is_looked_at_by_the_factors_that_it_is_made_for(formats, factors, shape, tested):
    assert found_factors(table(formats)) == (factors,)
    (grid,) = found(formats)
    assert grid.capacity.shape == shape
    assert [axis.name for axis in grid.axes] == factors.split(",")
    assert all(axis.dense == axis.levels[0] == "dense" for axis in grid.axes)
    fits = product(grid)
    assert fits.tested.sum() == tested
    low, high = entry_intervals(fits.error_draws)
    assert ((low <= 0) & (high >= 0))[fits.tested].mean() > 0.7
    assert np.abs(fits.errors[fits.tested]).max() < 0.05
    assert not missing(grid)
    (bent,) = found(formats, bent=1.3)
    assert product(bent).summary()["share_positive"] == 1.0
    assert np.all(entry_intervals(product(bent).error_draws)[0][fits.tested] > 0)


def test_factors_may_be_asked_for():
    (grid,) = found(THREE, "weights,activations")
    assert grid.axes[0].levels == ("dense", "int4", "top50", "top50+int4-dense-scales")
    (grid,) = found(THREE, "sparsity,bits")
    assert grid.capacity.shape == (2, 2)
    with pytest.raises(UserError, match="compresses two of sparsity,bits"):
        found(OPERANDS, "sparsity,bits")
    with pytest.raises(UserError, match="give one of weights,activations, sparsity,bits"):
        found(OPERANDS, "bits")
    with pytest.raises(UserError, match="two operands, or weights in two stages"):
        found([("int4", "dense", "128")])


def test_every_way_to_combine_has_its_own_grid_and_factors_in_its_own_basis():
    other = [("top50", "dense", None), ("top50+rotated-int4", "dense", None), ("top50+int4", "dense", "128")]
    plain = [("int4", "dense", None)]
    made = table([*STAGES, *other, *plain])
    measured = capacities_of(made, 200)
    every = {g.name.split(", ")[-1]: g for g in grids(made, measured)}
    assert set(every) == {"scales of the dense weights", "scales of the weights kept", "mask before the rotation"}

    def rho(weights, hadamard):
        curves = [c for c, r in made.first_of_curve.items() if (r.weights, r.hadamard) == (weights, hadamard)]
        return measured.rho[measured.curves.index(curves[0])]

    after, before = every["scales of the weights kept"], every["mask before the rotation"]
    assert (after.capacity[1, 0], after.capacity[0, 1]) == (rho("top50", "128"), rho("int4", "128"))
    assert (before.capacity[1, 0], before.capacity[0, 1]) == (rho("top50", ""), rho("int4", "128"))
    assert rho("top50", "") != rho("top50", "128")


def test_a_factor_that_no_product_has_is_no_axis():
    pairs = [("int2", "dense", None), ("int4", "dense", None), ("dense", "int3", None), ("int4", "int3", None)]
    two, three = sorted(found([*THREE, *pairs]), key=lambda grid: len(grid.axes))
    assert [axis.name for axis in two.axes] == ["bits", "activations"]
    assert [axis.name for axis in three.axes] == ["sparsity", "bits", "activations"]
    assert two.axes[0].levels == ("dense", "int4")
    assert [product(grid).tested.sum() for grid in (two, three)] == [1, 7]


def test_a_factor_in_another_basis_is_told():
    (grid,) = found([f for f in OPERANDS if f[:2] != ("dense", "int3")] + [("dense", "int3", None)])
    assert product(grid).tested.sum() == 4
    assert grid.notes == ("int3 alone was trained with no rotation, unlike its products",)
    assert found(OPERANDS)[0].notes == ()


def test_what_is_missing_is_said():
    (grid,) = found([f for f in OPERANDS if f[:2] not in (("dense", "int3"), ("int2", "int8"))])
    assert missing(grid) == [
        "activations int3 alone: no run",
        "int2 x int8: no run",
    ]
    assert product(grid).tested.sum() == 1
    with pytest.raises(
        UserError, match=r"without its factors: activations int8 alone: no run; activations int3 alone: no run$"
    ):
        found([f for f in OPERANDS if f[0] != "dense"])


def run(capsys, *arguments):
    assert tyro.cli(Factorize, args=list(arguments))() == 0
    return capsys.readouterr().out


@pytest.mark.ci
def test_the_command_prints_every_product_with_intervals(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows(THREE)).to_csv(path, index=False)
    lines = run(capsys, str(path), "--bootstrap", "100").splitlines()
    cells = [line for line in lines if re.search(r"top50 x int4 x int3", line)]
    assert len(cells) == 1
    assert len(re.findall(r"[+-]?0\.\d{3} ± 0\.\d{3}", cells[0])) == 3
    content = json.loads(run(capsys, str(path), "--bootstrap", "100", "--json", "--out", str(tmp_path / "out")))
    first = content[0]
    assert [axis["name"] for axis in first["axes"]] == ["sparsity", "bits", "activations"]
    assert np.shape(first["errors_low"]) == np.shape(first["measured"]) == (2, 2, 3)
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files[0] == "factorization.json"
    assert sorted(Path(file).suffix for file in files) == [".json", ".png", ".png", ".svg", ".svg"]
    asked = run(capsys, str(path), "--factors", "weights,activations", "--bootstrap", "100", "--json")
    assert json.loads(asked)[0]["entries"] == 6
    with pytest.raises(UserError, match="give a table of runs"):
        tyro.cli(Factorize, args=["--factors", "sparsity,bits"])()


def test_the_command_says_what_is_missing(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows([f for f in OPERANDS if f[:2] != ("int2", "int8")])).to_csv(path, index=False)
    assert "int2 x int8: no run" in run(capsys, str(path), "--bootstrap", "50")
