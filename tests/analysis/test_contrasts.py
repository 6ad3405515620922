"""Contrasts of losses: their numbers against an oracle, their intervals against simulations, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from capscale.experiments import dense_then_qat
from scipy.stats import t
from support import invented

from capscale.analysis.contrasts import LEAST_FREEDOM, between, estimate, losses_of, mean_of, of_losses, scatter_of
from capscale.analysis.evidence import Evidence
from capscale.errors import UserError
from capscale.representation import DENSE, Representation, operand

INT4, INT2 = (Representation(operand(name)) for name in ("int4", "int2"))
RULES = dense_then_qat.policy("int4", 0.5)


def evidence(loss, *, policies=(DENSE, INT4, INT2), cells=((1000, 2e4), (1000, 4e4), (2000, 4e4)), seeds=(0, 1)):
    """Rows of a grid, as runs leave them: `loss(policy's place, N, D, seed)`."""
    runs = {run.representation: run for run in invented.planned(dense_then_qat)}
    by_policy = {
        policy: invented.records([runs[policy]], lambda _: 1.0)[0] if policy in runs else row_of(policy)
        for policy in policies
    }
    rows = [
        {
            **by_policy[policy],
            "N": N,
            "D": D,
            "seed": seed,
            "loss": loss(place, N, D, seed),
            "run": f"{place} {N} {D} {seed}",
        }
        for place, policy in enumerate(policies)
        for N, D in cells
        for seed in seeds
    ]
    return Evidence(tuple(rows), "made", "nano")


def row_of(policy):
    (run,) = [run for run in invented.planned(dense_then_qat) if run.representation == DENSE][:1]
    return invented.records([replace(run, representation=policy)], lambda _: 1.0)[0]


def test_values_scatter_and_interval_by_hand():
    """One cell, three policies, two seeds: effects, residuals and Student's t worked out from their definitions."""
    table = np.array([[2.0, 2.1], [2.3, 2.35], [2.6, 2.72]])
    seen = evidence(lambda p, N, D, s: table[p, int(s)], cells=((1000, 2e4),))
    (scatter,) = scatter_of(losses_of(seen)).values()
    off = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    assert scatter.freedom == 2 == LEAST_FREEDOM
    assert scatter.deviation == pytest.approx(np.sqrt((off**2).sum() / 2))
    found = estimate(seen, mean_of([between(INT4, DENSE), between(INT2, DENSE)]))
    assert found.value == pytest.approx(table[1:].mean() - table[0].mean())
    error = scatter.deviation * np.sqrt((1 + 0.25 + 0.25) / 2)
    assert found.high - found.value == pytest.approx(t.ppf(0.975, 2) * error)
    assert found.note.startswith("N 1000 at D/N 20; 2 seeds in all")


def test_slope_is_that_of_each_size_and_what_sizes_differ_by_cancels():
    seen = evidence(lambda p, N, D, s: 2 + (0.03 * np.log(D) + N / 1000) * p + 0.2 * s)
    assert estimate(seen, between(INT4, DENSE), per_efold=True).value == pytest.approx(0.03)
    with pytest.raises(UserError, match="one number of tokens"):
        estimate(evidence(lambda p, N, D, s: 2 + p, cells=((1000, 2e4),)), between(INT4, DENSE), per_efold=True)


@pytest.mark.parametrize("scatter", [(0.01, 0.01, 0.01), (0.1, 0.01, 0.02)], ids=["alike", "apart"])
def test_intervals_hold_the_truth_as_often_as_they_say(scatter):
    """Whatever seeds add to all policies alike, and however far cells scatter; of a mean, a slope and each cell."""
    random, cells, held = np.random.default_rng(0), ((1e3, 2e4), (1e3, 4e4), (2e3, 4e4)), []
    true = np.array([[2 + 0.1 * p + 0.02 * p * np.log(D) for _, D in cells] for p in range(5)])
    for _ in range(600):
        own = random.normal(0, 1, (5, 3, 2)) * np.array(scatter)[:, None]
        table = true[..., None] + random.normal(0, 0.05, (3, 2)) + own
        losses = {
            f"{p}": {c: {0.0: table[p, i, 0], 1.0: table[p, i, 1]} for i, c in enumerate(cells)} for p in range(5)
        }
        one = [{curve: {cell: of[cell]} for curve, of in losses.items()} for cell in cells]
        true_of = [-0.1 - 0.02 * np.log(D) for _, D in cells]
        cases = [(losses, False, np.mean(true_of)), (losses, True, -0.02)]
        cases += [(only, False, truth) for only, truth in zip(one, true_of, strict=True)]
        for known, per_efold, truth in cases:
            found = of_losses(known, {"1": 1.0, "2": -1.0}, per_efold=per_efold)
            held.append(found.low <= truth <= found.high)
    covered = np.reshape(held, (600, 5)).mean(axis=0)
    assert covered == pytest.approx(0.95, abs=0.03)


def test_a_cell_that_does_not_tell_its_scatter_has_that_of_all():
    losses = losses_of(evidence(lambda p, N, D, s: 2 + p + 0.01 * s * p * N / 1000))
    lone = {curve: {**of, (3000.0, 4e4): {0.0: 3.0}} for curve, of in losses.items()}
    found, before = scatter_of(lone), scatter_of(losses)
    assert {cell: each for cell, each in found.items() if cell in before} == before
    pooled = np.sqrt(sum(each.deviation**2 * each.freedom for each in before.values()) / 6)
    assert found[3000.0, 4e4] == (pytest.approx(pooled), 6)


def test_rules_are_found_and_what_is_missing_is_named():
    seen = evidence(lambda p, N, D, s: 2 + p + 0.01 * s * p, policies=(DENSE, INT4, RULES))
    assert estimate(seen, between(RULES, DENSE)).value == pytest.approx(2.01)
    with pytest.raises(UserError, match=r"starts 0\.75: no result"):
        estimate(seen, between(dense_then_qat.policy("int4", 0.75), DENSE))
    with pytest.raises(UserError, match="1 degrees of freedom, 2 needed"):
        estimate(
            evidence(lambda p, N, D, s: 2 + p * s, policies=(DENSE, INT4), cells=((1e3, 1e4),)), between(INT4, DENSE)
        )
    apart = Evidence(tuple(r for r in seen.records if (r["weights"] == "dense") == (r["N"] == 1000)), "made", "nano")
    with pytest.raises(UserError, match="no size and tokens with a common seed"):
        estimate(apart, between(INT4, DENSE))
    with pytest.raises(ValueError, match="sum to 0"):
        estimate(seen, {DENSE: 1.0})
