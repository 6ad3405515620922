"""Capacities by the scatter of seeds: a known dense curve, known capacities, and coverage."""

import numpy as np
import pytest

from capscale.analysis.seeds import LEAST_FREEDOM, from_seeds, scatter
from capscale.analysis.table import make_table

SIZES = (500, 1700, 3500, 6700, 14000, 25000)
RHO = {"int4": 0.8, "int2": 0.4, "int1": 0.2}
NOISE = 0.02


def loss(N):
    return 1.0 + 5.0 * N**-0.2


def table(random, noise=NOISE, seeds=2, rho=RHO):
    records = []
    for name, share in {"dense": 1.0, **rho}.items():
        for N in SIZES if name == "dense" else SIZES[3:5]:
            for seed in range(seeds):
                value = loss(share * N) + random.normal(0, noise)
                records.append({"N": N, "D": 1e6, "loss": value, "weights": name, "activations": "dense", "seed": seed})
    return make_table(records, "test", strict=False)


def test_without_noise_the_capacities_are_the_true_ones():
    measured = from_seeds(table(np.random.default_rng(0), 1e-9))
    assert dict(zip(measured.curves, measured.rho, strict=True)) == pytest.approx(RHO, rel=0.02)  # of interpolation
    assert np.ptp(measured.draws, axis=0) == pytest.approx(0, abs=1e-5)
    assert not any(measured.why_not)


def test_scatter_is_pooled_over_cells():
    t = table(np.random.default_rng(1))
    cells = {}
    for r in t.rows:
        cells.setdefault((r.curve, r.N), []).append(r.loss)
    pairs = np.array(list(cells.values()))
    expected = np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2 / 2))
    found = scatter(t)
    assert found.freedom == len(pairs) == 12
    assert found.deviation == pytest.approx(expected)


def test_single_seeds_tell_nothing():
    assert scatter(table(np.random.default_rng(0), seeds=1)) is None
    assert from_seeds(table(np.random.default_rng(0), seeds=1)) is None
    assert LEAST_FREEDOM > 1


@pytest.mark.ci
def test_intervals_of_capacities_and_of_their_differences_cover():
    inside, told_apart = [], []
    for seed in range(40):
        measured = from_seeds(table(np.random.default_rng(seed)), 300, seed=1)
        log_rho, draws = np.log(measured.rho), np.log(measured.draws)
        for estimate, drawn, truth in (
            (log_rho[0], draws[:, 0], RHO["int4"]),
            (log_rho[0] - log_rho[1], draws[:, 0] - draws[:, 1], RHO["int4"] / RHO["int2"]),
        ):
            low, high = np.quantile(drawn, [0.025, 0.975])
            inside.append(low <= np.log(truth) <= high)
            told_apart.append(high - low < 0.8 and low < estimate < high)
    assert np.mean(inside) >= 0.88  # 80 intervals of .95: fewer are as unlikely as .003
    assert np.mean(told_apart) > 0.9, "intervals that cover are not merely wide"


def test_a_format_worth_less_than_the_smallest_dense_model_is_not_measured():
    measured = from_seeds(table(np.random.default_rng(0), rho=RHO | {"int1": 0.02}))
    told = dict(zip(measured.curves, measured.why_not, strict=True))
    assert "beyond the dense sizes" in told["int1"]
    assert told["int4"] == ""
