"""Statements judged by differences of losses, on invented rows: each comes out true, false and undecided by design."""

import math
from dataclasses import replace

import numpy as np
import pytest
from capscale.experiments import dense_then_qat, ends_dense, gradient_rounding, gradients
from support import invented

from capscale.analysis.claims import judge
from capscale.formats.dense import UNCOMPRESSED
from capscale.recipes import backward_only, find_recipe, forward_only
from capscale.representation import DENSE
from capscale.train import record

FORWARD = {forward_only(find_recipe(name)) for name in gradients.RECIPES} - {DENSE}
BACKWARD = {backward_only(find_recipe(name)) for name in gradients.RECIPES}
INT8 = find_recipe("int8-training")
YES, NO, OPEN = "reproduced", "not reproduced", "undecided at this scale"


@pytest.fixture(autouse=True)
def _no_gaussian_errors(monkeypatch):
    """Of formats with two-level scales they take seconds, and no difference of losses asks for them."""
    for module in (record, invented):
        monkeypatch.setattr(module, "format_gmse", lambda format: 0.0 if format == UNCOMPRESSED else 0.01)


def verdicts(experiment, cost, *, scatter=0.004, **options):
    """Of rows with dense losses plus a cost in nats by the policy and the tokens per parameter.

    One draw of the scatter; in one of twenty a cost of nothing is told from nothing.
    """
    rows = invented.evidence(experiment, lambda _: 1.0, scatter=scatter, seed=3, **options)
    runs = {run.run_id: run.representation for run in invented.planned(experiment)}

    def with_cost(row):
        held = runs[row["run"]]
        return {**row, "loss": row["loss"] + (0.0 if held == DENSE else cost(held, row["D"] / row["N"]))}

    found = experiment.estimates(replace(rows, records=tuple(map(with_cost, rows.records))))
    assert set(found) == {claim.name for claim in experiment.STATEMENTS}
    return {claim.name: judge(claim, found[claim.name]).verdict for claim in experiment.STATEMENTS}


def gradient_costs(forward, backward, both, grows, int8=0.0):
    def cost(held, ratio):
        if held in {INT8, forward_only(INT8), backward_only(INT8)}:
            return int8
        part = backward if held in BACKWARD else forward if held in FORWARD else both
        return part + grows * math.log(ratio / 25)

    return cost


@pytest.mark.parametrize(
    ("costs", "scatter", "expected"),
    [
        (gradient_costs(0.15, 0.03, 0.18, 0.03), 0.004, (YES, YES, YES, NO, YES)),  # both grow, and both at once
        (gradient_costs(0.15, 0.03, 0.18, 0.0), 0.004, (YES, OPEN, OPEN, YES, YES)),
        (gradient_costs(0.03, 0.15, 0.30, -0.03, 0.05), 0.004, (NO, NO, NO, NO, NO)),
        (gradient_costs(0.15, 0.03, 0.18, 0.03), 0.2, (OPEN,) * 5),
    ],
)
def test_gradients(costs, scatter, expected):
    *found, last = verdicts(gradients, costs, scatter=scatter).values()
    assert tuple(found) == expected
    assert last == OPEN, "no noise is told"


@pytest.mark.parametrize(
    ("norm", "costs_below", "costs_above", "expected"),
    [
        (1.7, 0.08, 0.02, YES),
        (1.7, 0.02, 0.08, NO),
        (1.7, 0.02, 0.02, OPEN),
        (1.8, 0.08, 0.02, OPEN),  # none below sqrt(3)
        (1.0, 0.08, 0.02, OPEN),  # none above
    ],
)
def test_the_threshold(norm, costs_below, costs_above, expected):
    """Noise of 1, and a gradient of `norm` in the two longer trainings, of 1.8 (or 1) in the shorter ones."""

    def told(run):
        late = run.tokens // run.non_embedding_parameters > 75
        return {"gradient_noise": 1.0, "gradient_norm": norm if late or norm == 1.0 else 1.8}

    def cost(held, ratio):
        return costs_below if ratio > 75 else costs_above

    assert verdicts(gradients, cost, columns=told)["below-threshold"] == expected


@pytest.mark.parametrize(("sign", "scatter", "expected"), [(1, 0.004, YES), (-1, 0.004, NO), (1, 0.1, OPEN)])
def test_rounding(sign, scatter, expected):
    def cost(held, ratio):  # the other way round in the shorter trainings, which are not what is judged
        return 0.02 if held == gradient_rounding.RECIPE else 0.02 + (sign if ratio > 75 else -sign) * 0.03

    assert set(verdicts(gradient_rounding, cost, scatter=scatter).values()) == {expected}


def qat_costs(early, late4, late2):
    named = {dense_then_qat.policy("int4", 0.9): late4, dense_then_qat.policy("int2", 0.9): late2}
    never = {dense_then_qat.policy(name, 0.0) for name in dense_then_qat.FORMATS}
    return lambda held, _: 0.1 + (0.0 if held in never else named.get(held, early))


@pytest.mark.parametrize(
    ("costs", "scatter", "expected"),
    [
        (qat_costs(-0.03, 0.04, 0.1), 0.004, (YES, YES, YES, YES)),
        (qat_costs(0.05, -0.04, -0.1), 0.004, (NO, NO, NO, NO)),
        (qat_costs(0.0, 0.05, 0.05), 0.004, (YES, OPEN, YES, OPEN)),
        (qat_costs(0.0, 0.05, 0.1), 0.1, (OPEN,) * 4),
    ],
)
def test_switching(costs, scatter, expected):
    assert tuple(verdicts(dense_then_qat, costs, scatter=scatter).values()) == expected


def ends_costs(all4, all2, first, last):
    """Costs of int4 and int2 throughout, and the share of them left with the first or the last block dense."""
    whole = {ends_dense.throughout(name): c for name, c in zip(ends_dense.FORMATS, (all4, all4, all2), strict=True)}
    shares = {"first": first, "last": last}
    parts = {
        rules: shares[end] * whole[ends_dense.throughout(name)]
        for name in ends_dense.FORMATS
        for end, rules in ends_dense.ends(name, 2).items()
    }
    return lambda held, _: {**whole, **parts}[held]


@pytest.mark.parametrize(
    ("costs", "scatter", "expected"),
    [
        (ends_costs(0.05, 0.3, 0.7, 0.4), 0.004, (YES, YES, YES, YES)),
        (ends_costs(0.2, 0.05, 1.2, 1.6), 0.004, (NO, YES, NO, NO)),
        (ends_costs(0.3, 0.1, 0.5, 0.5), 0.004, (YES, NO, OPEN, NO)),
        (ends_costs(0.05, 0.3, 0.7, 0.4), 0.2, (OPEN,) * 4),
    ],
)
def test_ends(costs, scatter, expected):
    assert tuple(verdicts(ends_dense, costs, scatter=scatter).values()) == expected


def test_one_seed_decides_nothing():
    for experiment in (gradients, dense_then_qat):
        alone = verdicts(experiment, lambda *_: 0.1, keep=lambda run: run.seed == 0)
        assert set(alone.values()) == {OPEN}


def test_what_was_trained_is_what_the_experiments_say():
    runs = invented.planned(gradients)
    assert len(runs) == 168
    assert {(r.size, r.tokens // r.non_embedding_parameters) for r in runs} == {
        *(("nano-16", ratio) for ratio in (25, 50, 100, 200)),
        *(("nano-48", ratio) for ratio in (25, 50)),
    }
    assert len(invented.planned(gradients, "micro")) == 3 * 4 * 14 * 2
    variants = invented.planned(gradient_rounding)
    assert (len(variants), {r.size for r in variants}) == (72 + 48, {"nano-16"})
    assert set(runs) & set(variants), "the recipe and dense are the same runs"


@pytest.mark.ci
def test_the_figure_has_a_line_for_every_recipe_and_a_mark_for_every_seed():
    drawn = gradients.figure(invented.evidence(gradients, lambda _: 0.8))
    titles = {axes.get_title(): axes for axes in drawn.axes}
    lines = {
        title: [line for line in axes.get_lines() if line.get_label() in gradients.RECIPES]
        for title, axes in titles.items()
    }
    assert {title: len(found) for title, found in lines.items()} == {
        "forward products": 4,
        "backward products": 5,
        "all three": 4,
    }
    for title, found in lines.items():
        assert all(np.size(line.get_xdata()) == len(gradients.RATIOS) for line in found)
        every = titles[title].get_lines()
        marks = [line for line in every if np.size(line.get_xdata()) == 2 and line.get_marker() != "None"]
        assert len(marks) == len(found) * len(gradients.RATIOS)
