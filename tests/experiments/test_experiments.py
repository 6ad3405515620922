"""Every experiment that ships can be planned on every ladder, and asks for what it says."""

import hashlib

import pytest
from capscale.experiments import capacity_demo, micro_capacity
from support import tiny
from support.cases import parametrize

from capscale.data.corpus import DataId
from capscale.defaults import default_estimator
from capscale.estimator_names import find_estimator, split_name
from capscale.formats.catalog import find
from capscale.models.ladder import LADDERS
from capscale.representation import DENSE
from capscale.sweep.plan import known_experiments, plan

IDS = {
    "capacity_demo": (
        "7bc5fbac9835b98f",
        "feb0592908bbe84c",
        "887fd6ea399db0fa",
        "caf625377ab6b331",
        "3d9f2d0cdd7d4400",
        "18ddfdff99b45080",
    ),
    "micro_capacity": (
        "01a32b2859aa8500",
        "7849b024d3fd23e2",
        "895519850847282d",
        "ba163deb8242dd6d",
        "fe1a3e1d50a13530",
        "803fd981bada738d",
    ),
    "gradients": (
        "bbc02f3037aa427b",
        "dc2c87ff3a9db8d7",
        "f2fdc1ca73801080",
        "ed51e9ac99fd426e",
        "92654aecbe4d6b58",
        "94197288be552b63",
    ),
    "gradient_rounding": (
        "2cf548fe1096dec5",
        "05fce348a96dc228",
        "107a8157c7154bb1",
        "d204c6cf8a4490d6",
        "cb175904190cea80",
        "8b99a115ce6af299",
    ),
    "dense_then_qat": (
        "0f0212fd43504bc5",
        "8698134a588561a3",
        "b0cd1d8ff28caf7c",
        "9b1bd6f03035eccd",
        "8f8e60e7961b725d",
        "94b8e9949ec9ed2e",
    ),
    "ends_dense": (
        "0d0fa8be98d1e07f",
        "d863437bf133b44d",
        "a4a2e473d8056033",
        "70ba8a01c39009a7",
        "4dab878f6167428c",
        "efb6a83faef89db9",
    ),
    "nested": (
        "2e266ee58b36e877",
        "31ea86cced9da209",
        "53ec5e5b559e2069",
        "2a5db803ea727ab4",
        "3174e3a858f40f0e",
        "b6aa8d705e945e15",
    ),
    "ordering": (
        "aba3e92bf317a73e",
        "c66c846fdf1092c1",
        "cdd5ad822198c12a",
        "85448ef92594cb1a",
        "df5c679f16f18f6f",
        "4994e2f07bfccac9",
    ),
    "rbbm_scan": (
        "b280df912cafa99b",
        "b6950dd4f0d03cea",
        "af2939c6009d1a58",
        "6e75c545d05d7441",
        "c13e22115bd943d2",
        "d8694ad81430efea",
    ),
    "recipes": (
        "b86beb127172d8a7",
        "84a1ccff6a17d123",
        "318ae26cc8572bd0",
        "a4dc32092a329ff4",
        "e30bcecd4cc7b3f3",
        "909bfb2ab28be39f",
    ),
    "paper_capacity": (
        "99e857ef25d8ef26",
        "64e5d2f39fed4a90",
        "17041e074d292712",
        "47243a64ef49cede",
        "0dc895e6202a1742",
        "a33a10da3e96356a",
    ),
}
"""Of every experiment on nano, micro, paper, paper-olmo2, nano-olmo2 and micro-olmo2: SHA-256 of the ids of all its
runs, 16 digits. Ids that change orphan every result trained under the old ones."""
PLANS = [(experiment, ladder) for experiment in known_experiments() for ladder in LADDERS]


@parametrize(("experiment", "ladder"), PLANS, default=[of for of in PLANS if of[1] == "nano"])
def test_every_ladder_can_be_planned(experiment, ladder):
    runs = plan(experiment, ladder, tiny.corpus().id).runs
    families = {ladder, f"{ladder}-olmo2"} if experiment in ("tab3", "reproduction") else {ladder}
    for run in runs:
        sizes = LADDERS[run.ladder].sizes
        if experiment in ("rbbm_scan", "vq_radius"):  # what they choose is not chosen on a size that is reported of
            assert run.model not in [LADDERS[ladder].model(size, run.data.vocabulary) for size in sizes]
        else:
            assert run.model == LADDERS[run.ladder].model(run.size, run.data.vocabulary)
        assert run.ladder in families
        assert run.steps >= 10


@pytest.mark.parametrize(
    ("experiment", "ladder", "expected"),
    [
        (experiment, ladder, expected)
        for experiment, digests in IDS.items()
        for ladder, expected in zip(
            ("nano", "micro", "paper", "paper-olmo2", "nano-olmo2", "micro-olmo2"), digests, strict=True
        )
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
    assert {run.seed for run in compressed} == {0, 1}
    assert all(len(runs) == len(set(runs)) for runs in (runs, [run.run_id for run in runs]))
    dense = {run.size for run in runs if run.representation == DENSE and run.trained_tokens in tokens}
    counts = {run.size: run.non_embedding_parameters for run in runs}
    assert sizes < dense
    assert min(counts[size] for size in dense) < min(counts[size] for size in sizes) / 4, "anchors for weak formats"


def test_recipes_are_spelled_out_and_are_the_defaults_but_for_the_baseline():
    """Nothing that is reported rests on a default that a reader has to look up."""
    for module, texts in (
        (capacity_demo, capacity_demo.QUANTIZED + capacity_demo.SPARSE),
        (micro_capacity, micro_capacity.ROTATED + micro_capacity.PLAIN),
    ):
        rotated = set(getattr(module, "QUANTIZED", ())) | set(getattr(module, "ROTATED", ()))
        for text in texts:
            name, estimator = split_name(text)
            default = default_estimator(find(name), text in rotated)
            assert (find_estimator(estimator) == default) == (estimator != "fw"), text


def test_recipes_has_the_former_default_beside_each_new_one():
    runs = plan("recipes", "nano", tiny.corpus().id).runs
    names = {run.representation.weights.name(run.representation.hadamard is not None) for run in runs}
    assert {"int1", "int1 [clip]", "top50", "top50 [straight-through]", "2:4", "2:4 [fw]", "dense"} <= names
    assert {run.size for run in runs if run.representation != DENSE} == {"nano-16", "nano-24"}


def test_ordering_differs_in_format_alone():
    runs = plan("ordering", "nano", tiny.corpus().id).runs
    assert len(runs) == 4
    assert len({(run.size, run.tokens, run.optimizer, run.seed) for run in runs}) == 1


def test_paper_grid_has_every_format_at_every_ratio_and_larger_sizes_to_predict():
    runs = plan("paper_capacity", "paper", tiny.corpus().id).runs
    ratio = {run: round(run.tokens / run.non_embedding_parameters) for run in runs}
    fitted = [run for run in runs if run.size in ("30M", "50M", "100M", "200M")]
    formats = {run.representation for run in runs}
    assert len(formats) == 14
    cells = {(run.size, ratio[run], run.representation) for run in fitted}
    assert len(cells) == len(fitted) == 4 * 4 * 14
    assert {ratio[run] for run in fitted} == {25, 50, 100, 200}
    held_out = [run for run in runs if run not in fitted]
    assert {(run.size, ratio[run]) for run in held_out} == {("430M", 100), ("800M", 100)}
    assert len({run.representation for run in held_out}) == 6
    assert [run.flops for run in runs] == sorted((run.flops for run in runs), reverse=True)
    assert {run.tokens_per_step for run in runs} == {262_144}
