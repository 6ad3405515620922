"""How far to train before rounding: the closed form of two power laws, open ends, and what the tables do not know."""

import json

import numpy as np
import pytest
from support import rises as made

from capscale.analysis.ensemble import gathered
from capscale.analysis.fit import Settings
from capscale.analysis.laws import LAWS
from capscale.analysis.operands import gaussian_error
from capscale.analysis.predict import Predictor, storage_bits, target
from capscale.analysis.rises import forms
from capscale.analysis.rises.fit import fit_rises
from capscale.analysis.rises.lengths import Limit, best_lengths
from capscale.analysis.table import make_table
from capscale.capacity import Scaling
from capscale.cli import main
from capscale.errors import UserError

DENSE = Scaling(A=40.0, alpha=0.4, B=30.0, beta=0.4, E=1.5)
N = 1e4


def runs(noise=0.001, seed=5):
    random = np.random.default_rng(seed)
    told = {"weights": "dense", "activations": "dense"}
    cells = [(n, d) for n in made.SIZES for d in made.TOKENS for _ in made.SEEDS]
    losses = [float(DENSE.loss(n, d, 1.0)) + noise * random.normal() for n, d in cells]
    return [told | {"N": n, "D": d, "loss": loss} for (n, d), loss in zip(cells, losses, strict=True)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Predictor of dense losses, and the law of rises, of tables whose numbers are known."""
    ensemble = gathered(make_table(runs(), "dense"), (LAWS["dense"],), Settings(starts=8, shared="none"))
    rises = made.table(tmp_path_factory.mktemp("rises"), spread=0.05)
    predictor = Predictor(ensemble, (target("dense", runs=ensemble.table),), 400)
    return predictor, fit_rises(forms.GMSE, rises, resamples=100)


def closed_form(name, size=N):
    """d/dD of B D^-beta + slope (D / 1e6)^b GMSE is 0 there."""
    slope = made.TRUTH["k"] * (size / 1e4) ** -made.TRUTH["a"] * gaussian_error(name)
    b, beta = made.TRUTH["b"], DENSE.beta
    return (DENSE.B * beta / (slope * b * 1e6**-b)) ** (1 / (b + beta))


def test_the_best_length_is_the_closed_forms(fitted):
    """Three sizes of one memory, one a format: 1e4 parameters of int3, more of int2, fewer of int4."""
    memory = N * storage_bits("int3") / 8
    found, refused = best_lengths(*fitted, Limit(memory=memory), ["int3", "int2"])
    assert refused == {}
    for length in found:
        size = 8 * memory / storage_bits(length.weights)
        truth = closed_form(length.weights, size)
        assert pytest.approx(size) == length.N
        assert 1e5 < truth < 3e6
        assert length.D.estimate == pytest.approx(truth, rel=0.25)
        assert length.D.low < truth < length.D.high
        rise = made.TRUTH["k"] * (length.D.estimate / 1e6) ** 0.6 * (size / 1e4) ** -0.25
        assert length.rise.estimate == pytest.approx(rise * gaussian_error(length.weights), rel=0.15)
        dense = float(DENSE.loss(size, length.D.estimate, 1.0))
        assert length.loss.estimate == pytest.approx(dense + length.rise.estimate, abs=0.01)
        assert length.memory == pytest.approx(memory)
        assert length.at_end == ""
    assert found[0].loss.estimate < found[1].loss.estimate
    assert (found[0].behind, found[1].behind > 0) == (0, True)


def test_flops_divide_into_size_and_length(fitted):
    flops = 6 * 1e4 * 1e6
    (length,), _ = best_lengths(*fitted, Limit(flops=flops), ["int2"])
    sizes = np.geomspace(4e3, 8e4, 2001)
    tokens = flops / 6 / sizes
    rise = made.TRUTH["k"] * (tokens / 1e6) ** 0.6 * (sizes / 1e4) ** -0.25 * gaussian_error("int2")
    total = np.array([float(DENSE.loss(n, d, 1.0)) for n, d in zip(sizes, tokens, strict=True)]) + rise
    best = tokens[np.argmin(total)]
    assert length.D.estimate == pytest.approx(best, rel=0.25)
    assert 6 * length.N * length.D.estimate == pytest.approx(flops, rel=1e-3)


def test_a_format_that_costs_nothing_is_trained_to_the_end(fitted):
    ((length,), _) = best_lengths(*fitted, Limit(memory=N * storage_bits("int6") / 8), ["int6"])
    assert length.at_end == "longest"
    assert np.isinf(length.D.high)


def test_what_the_tables_do_not_know_is_refused(fitted):
    for limit in (Limit(), Limit(1e3, 1e3), Limit(memory=-1.0), Limit(flops=float("nan"))):
        with pytest.raises(UserError, match="one of --memory and --flops"):
            best_lengths(*fitted, limit, ["int4"])
    small = Limit(memory=5e3)
    with pytest.raises(UserError, match=r"int1: its GMSE of 0.363 lies outside of the rounded runs'"):
        best_lengths(*fitted, small, ["int1"])
    with pytest.raises(UserError, match="dense: nothing is rounded"):
        best_lengths(*fitted, small, ["dense"])
    with pytest.raises(UserError, match=r"N = 1e\+06 lies outside of the runs' 4e\+03 to 8e\+04"):
        best_lengths(*fitted, Limit(memory=5e5), ["int4"])
    with pytest.raises(UserError, match=r"1e\+20 FLOPs lie outside of what the runs had"):
        best_lengths(*fitted, Limit(flops=1e20), ["int4"])
    found, refused = best_lengths(*fitted, small, ["int4", "int1"])
    assert [length.weights for length in found] == ["int4"]
    assert list(refused) == ["int1"]


@pytest.mark.slow
def test_intervals_hold_the_length_of_the_law_and_of_the_format(tmp_path):
    """Sixteen pairs of tables whose runs and formats depart by 15 %: 95 % intervals are of a single run, and wider."""
    held, spread = 0, 0.15
    for seed in range(16):
        table = make_table(runs(0.004, seed), "dense", strict=False)
        ensemble = gathered(table, (LAWS["dense"],), Settings(starts=8, shared="none"))
        fit = fit_rises(forms.GMSE, made.table(tmp_path, seed=seed, spread=spread), resamples=200)
        predictor = Predictor(ensemble, (target("dense", runs=ensemble.table),), 400)
        own = np.exp(spread * np.random.default_rng(seed).normal(size=len(made.FORMATS)))  # as `made.table` draws them
        for name, size in (("int3", 2e4), ("int2", 1e4)):
            (length,), _ = best_lengths(predictor, fit, Limit(memory=size * storage_bits(name) / 8), [name])
            by_law = closed_form(name, size)  # in proportion to one over the slope, as b + beta is one
            by_format = by_law / own[made.FORMATS.index(name)]
            held += length.D.low <= by_law <= length.D.high and length.D.low <= by_format <= length.D.high
            assert length.D.high < 4 * length.D.low
    assert held >= 29  # of 32


@pytest.mark.ci
def test_the_command_of_plans(tmp_path, capsys):
    rounded = str(made.write(tmp_path / "rounded.csv", made.records(seeds=(0,))))
    table = str(made.write(tmp_path / "runs.csv", runs()))
    command = ["plan", table, "--rounded", rounded, "--draws", "50"]
    assert main([*command, "--memory", "4e3", "--formats", "int3", "int2", "int1"]) == 0
    out = capsys.readouterr().out
    assert "train to D" in out
    assert "not planned: int1: its GMSE" in " ".join(out.split())
    assert main([*command, "--memory", "4e3", "--formats", "int3", "--json"]) == 0
    (length,) = json.loads(capsys.readouterr().out)["lengths"]
    assert length["D"]["low"] < length["D"]["estimate"]
    assert main([*command, "--memory", "4e3", "--tokens", "1e6"]) == 2
    assert "leave --tokens out" in capsys.readouterr().err
    assert main([*command, "--memory", "4e3", "--formats", "int4/int8"]) == 2
    assert "rounding after training is of weights" in capsys.readouterr().err
