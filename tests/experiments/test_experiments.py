"""Every experiment that ships can be planned on every ladder, and asks for what it says."""

import hashlib

import pytest
import tiny

from capscale.data.corpus import DataId
from capscale.models.ladder import LADDERS
from capscale.representation import DENSE
from capscale.sweep.plan import known_experiments, plan

IDS = {
    "capacity_demo": ("92290dfea9d20ffb", "ae8d51bc345a8da6", "a4e162f60d822eec", "55e260b33a2c6957"),
    "micro_capacity": ("36222c65b910725a", "b7c0003fe89c238b", "e1706a52fed8f8b8", "4e09b794bfefbbc9"),
    "ordering": ("666344873b7ba352", "e1fa3ef3e43dbd7e", "283de79d3317414b", "fe385228d621ba59"),
    "paper_capacity": ("e5a7657a5ca09342", "ea2823d9baf2efef", "823ad7a2b27ccecf", "2f5736e60dd561ed"),
}
"""Of every experiment on nano, micro, paper and paper-olmo2: SHA-256 of the ids of all its runs, 16 digits. Ids that
change orphan every result trained under the old ones."""
PLANS = [(experiment, ladder) for experiment in known_experiments() for ladder in LADDERS]


@pytest.mark.parametrize(("experiment", "ladder"), PLANS)
def test_every_ladder_can_be_planned(experiment, ladder):
    runs = plan(experiment, ladder, tiny.corpus().id).runs
    for run in runs:
        assert run.model == LADDERS[ladder].model(run.size, run.data.vocabulary)
        assert run.ladder == ladder
        assert run.steps >= 10


@pytest.mark.parametrize(
    ("experiment", "ladder", "expected"),
    [
        (experiment, ladder, expected)
        for experiment, digests in IDS.items()
        for ladder, expected in zip(("nano", "micro", "paper", "paper-olmo2"), digests, strict=True)
    ],
)
def test_golden_ids(experiment, ladder, expected):
    runs = plan(experiment, ladder, DataId("text", "0" * 64, 96)).runs
    assert hashlib.sha256("".join(run.run_id for run in runs).encode()).hexdigest()[:16] == expected


def test_demo_compares_every_format_at_equal_tokens_and_every_size():
    runs = plan("capacity_demo", "nano", tiny.corpus().id).runs
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
    runs = plan("ordering", "nano", tiny.corpus().id).runs
    assert len(runs) == 4
    assert len({(run.size, run.tokens, run.optimizer, run.seed) for run in runs}) == 1


def test_paper_grid_has_every_format_at_every_ratio_and_larger_sizes_to_predict():
    runs = plan("paper_capacity", "paper", tiny.corpus().id).runs
    ratio = {run: round(run.tokens / run.non_embedding_parameters) for run in runs}
    fitted = [run for run in runs if run.size in ("30M", "50M", "100M", "200M")]
    formats = {run.representation for run in runs}
    assert len(formats) == 13
    cells = {(run.size, ratio[run], run.representation) for run in fitted}
    assert len(cells) == len(fitted) == 4 * 4 * 13
    assert {ratio[run] for run in fitted} == {25, 50, 100, 200}
    held_out = [run for run in runs if run not in fitted]
    assert {(run.size, ratio[run]) for run in held_out} == {("430M", 100), ("800M", 100)}
    assert len({run.representation for run in held_out}) == 6
    assert [run.flops for run in runs] == sorted((run.flops for run in runs), reverse=True)
    assert {run.tokens_per_step for run in runs} == {262_144}
