"""Every experiment that ships can be planned on every ladder, and asks for what it says."""

import pytest
import tiny

from capscale.models.ladder import LADDERS
from capscale.representation import DENSE
from capscale.sweep.plan import known_experiments, plan

PLANS = [(experiment, ladder) for experiment in known_experiments() for ladder in LADDERS]


@pytest.mark.parametrize(("experiment", "ladder"), PLANS)
def test_every_ladder_can_be_planned(experiment, ladder):
    runs = plan(experiment, ladder, tiny.corpus()).runs
    for run in runs:
        assert run.model == LADDERS[ladder].model(run.size, run.data.vocabulary)
        assert run.ladder == ladder
        assert run.steps >= 10


def test_demo_compares_every_format_at_equal_tokens_and_every_size():
    runs = plan("capacity_demo", "nano", tiny.corpus()).runs
    compressed = [run for run in runs if run.representation != DENSE]
    tokens = {run.trained_tokens for run in compressed}
    assert len(tokens) == 1
    sizes = {run.size for run in compressed}
    by_format = {run.representation: set() for run in compressed}
    for run in compressed:
        by_format[run.representation].add(run.size)
    assert set(map(frozenset, by_format.values())) == {frozenset(sizes)}
    assert len(by_format) == 8
    dense = {run.size for run in runs if run.representation == DENSE and run.trained_tokens in tokens}
    counts = {run.size: run.non_embedding_parameters for run in runs}
    assert sizes < dense
    assert min(counts[size] for size in dense) < min(counts[size] for size in sizes) / 4, "anchors for weak formats"


def test_ordering_differs_in_format_alone():
    runs = plan("ordering", "nano", tiny.corpus()).runs
    assert len(runs) == 4
    assert len({(run.size, run.tokens, run.optimizer, run.seed) for run in runs}) == 1
