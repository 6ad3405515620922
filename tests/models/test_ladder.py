"""The named sizes: parameter counts derived from the shape against those counted on the model."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.cases import parametrize

from capscale.errors import UserError
from capscale.formats.serialize import from_json, to_json
from capscale.models.config import ModelConfig
from capscale.models.coverage import parameters
from capscale.models.ladder import LADDERS, MICRO, NANO, PAPER, find_size, ladder
from capscale.models.rope import LinearRope, Llama3Rope
from capscale.representation import DENSE

# Table of the training set-up, arXiv 2506.01863; 430M and 800M from arXiv 2502.05003. Final norm included.
PRINTED = {
    "30M": 30_482_560,
    "50M": 49_556_736,
    "100M": 102_777_856,
    "200M": 203_188_480,
    "430M": 443_068_288,
    "800M": 822_151_168,
}
SIZES = [(name, size) for name, ladder in LADDERS.items() for size in ladder.sizes]


@parametrize(("name", "size"), SIZES, default=SIZES[::6], ids=[size for _, size in SIZES])
def test_derived_count_is_the_counted_one(name, size):
    model = LADDERS[name].model(size, vocabulary=96)
    leaves = parameters(model, DENSE)
    assert sum(leaf.size for leaf in leaves if leaf.in_n) == model.non_embedding_parameters
    embeddings = sum(leaf.size for leaf in leaves if not leaf.in_n)
    assert embeddings == 96 * model.width * (1 if model.tied_embeddings else 2)


def test_paper_sizes_are_the_printed_ones():
    assert {size: model.non_embedding_parameters for size, model in PAPER.sizes.items()} == PRINTED


@pytest.mark.parametrize("small", [NANO, MICRO], ids=lambda small: small.name)
def test_deviations_say_how_far_the_small_ladders_reach(small):
    counts = [model.non_embedding_parameters for model in small.sizes.values()]
    said = f"{min(counts):,} to {max(counts):,} ({small.name})"
    assert said in (Path(__file__).parents[2] / "DEVIATIONS.md").read_text()


@parametrize("of", [NANO, MICRO, PAPER], default=1, ids=lambda of: of.name)
def test_olmo2_sizes_have_as_many_weights_as_their_llamas(of):
    """Two matrices instead of three, and two more gains a layer: those of queries and keys."""
    second = ladder(f"{of.name}-olmo2")
    assert list(second.sizes) == [f"olmo2-{size}" for size in of.sizes]
    assert list(second.learning_rates.values()) == list(of.learning_rates.values())
    assert second.batch == of.batch
    for size, llama in of.sizes.items():
        olmo2 = second.sizes[f"olmo2-{size}"]
        matrices = [
            {leaf.path: leaf.size for leaf in parameters(model, DENSE) if leaf.path.endswith("kernel")}
            for model in (llama, olmo2)
        ]
        assert sum(matrices[0].values()) == sum(matrices[1].values())
        assert olmo2.non_embedding_parameters == llama.non_embedding_parameters + 2 * llama.layers * llama.width
        assert of != PAPER or olmo2.hidden % 128 == 0


@pytest.mark.parametrize("name", LADDERS)
def test_ladder_is_whole(name):
    of_name = ladder(name)
    assert of_name.name == name
    assert of_name.sizes.keys() == of_name.learning_rates.keys()
    counts = [model.non_embedding_parameters for model in of_name.sizes.values()]
    assert counts == sorted(set(counts))
    rates = list(of_name.learning_rates.values())
    assert rates == sorted(rates, reverse=True)
    for size, model in of_name.sizes.items():
        assert find_size(size) == model
        assert of_name.model(size, 123).vocabulary == 123


@pytest.mark.parametrize("width", [1, 4, 12, 96, 97, 640, 1280])
@pytest.mark.parametrize("multiple_of", [1, 8, 256])
def test_hidden_width_rounds_up(width, multiple_of):
    model = ModelConfig(1, 1, 2 * width, 96, 16, multiple_of=multiple_of)
    assert model.hidden == math.ceil(8 * 2 * width / 3 / multiple_of) * multiple_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers=0 must be at least 1"),
        ({"context": -1}, "context=-1 must be at least 1"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"heads": 3}, "width=8 over heads=3"),
        ({"heads": 8}, "even whole head width"),
        ({"family": "gpt"}, "family='gpt' is unknown; use 'llama' or 'olmo2'"),
        ({"head_width": 5}, "head_width=5 must be even"),
        ({"heads": 2, "kv_heads": 4}, "kv_heads=4 must divide heads=2"),
        ({"mlp": "gelu"}, "mlp='gelu' is unknown; use None or 'swiglu' or 'relu2'"),
        ({"qk_norm": "all"}, "qk_norm='all' is unknown"),
        ({"mlp": "relu2", "biases": ("gate",)}, "biases=.'gate',.: this model has the projections query, key"),
        ({"biases": ("up", "query")}, "name each once, in the order query, key"),
        ({"rope_scaling": 2.0}, "rope_scaling=2.0: give a LinearRope"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    shape = {"layers": 1, "heads": 1, "width": 8, "vocabulary": 96, "context": 16} | changes
    with pytest.raises(UserError, match=message):
        ModelConfig(**shape)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"family": "olmo2"},
        {"heads": 4, "kv_heads": 2, "head_width": 6, "qk_norm": "per-head", "feed_forward_width": 20},
        {"heads": 4, "kv_heads": 2, "family": "olmo2", "mlp": "swiglu", "biases": ("query", "out", "gate", "down")},
    ],
    ids=["llama", "olmo2", "as qwen3", "with biases"],
)
def test_n_is_that_of_the_parameters(changes):
    model = ModelConfig(**{"layers": 3, "heads": 1, "width": 8, "vocabulary": 96, "context": 16} | changes)
    leaves = parameters(model, DENSE)
    assert model.non_embedding_parameters == sum(leaf.size for leaf in leaves if leaf.in_n)
    kernels = {leaf.path.split("/")[-2]: leaf.shape[1:] for leaf in leaves if leaf.path.endswith("kernel")}
    assert kernels == model.projections


@pytest.mark.parametrize("scaling", [None, LinearRope(2.0), Llama3Rope(8.0, 1.0, 4.0, 64)], ids=str)
def test_shapes_are_json_and_back(scaling):
    plain = ModelConfig(layers=1, heads=2, width=8, vocabulary=96, context=16, rope_scaling=scaling)
    known = (ModelConfig, LinearRope, Llama3Rope)
    for model in (plain, replace(plain, kv_heads=1, qk_norm="per-head", biases=("query", "key", "value"))):
        assert from_json(json.loads(json.dumps(to_json(model))), known) == model
    added = set(ModelConfig.JSON_ADDED) - {"rope_scaling"}
    assert not added & set(to_json(plain)), "ids of runs of before stay"


def test_unknown_names_are_refused_with_the_known():
    with pytest.raises(
        UserError,
        match=r"ladder 'pico' is unknown; did you mean micro\? "
        "known ladders: nano, micro, paper, nano-olmo2, micro-olmo2, paper-olmo2",
    ):
        ladder("pico")
    with pytest.raises(UserError, match=r"size '30M' is not of the nano ladder; its sizes: nano-4, "):
        ladder("nano").model("30M", 96)
    with pytest.raises(UserError, match=r"model '31M' is unknown; known models: nano-4, .*, 800M"):
        find_size("31M")
